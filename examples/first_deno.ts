// deno run --allow-ffi examples/first_deno.ts     (without --allow-ffi it runs in WebAssembly)
import { AdamW, backend, Parameter } from "@flatstep/optim";

// Fit y = a·sin(x) + b to a hundred noisy points; the gradients are written by hand.
const x = Float64Array.from({ length: 100 }, (_, i) => i / 10);
const y = x.map((v, i) => 3 * Math.sin(v) - 1 + 0.1 * Math.cos(37 * i));

const weights = new Parameter(new Float64Array(2), { name: "weights" }); // [a, b]
const optimizer = new AdamW([weights], { lr: 0.1, weightDecay: 0 });

for (let step = 1; step <= 300; step++) {
  const loss = optimizer.step(() => {
    const [a, b] = weights.data as Float64Array, grad = new Float64Array(2);
    let sum = 0;
    x.forEach((v, i) => {
      const error = a! * Math.sin(v) + b! - y[i]!;
      sum += error * error / x.length;
      grad[0]! += 2 * error * Math.sin(v) / x.length;
      grad[1]! += 2 * error / x.length;
    });
    weights.grad = grad;
    return sum;
  });
  if (step % 100 === 0) console.log(`step ${step}: loss ${loss.toFixed(4)}`);
}

const [a, b] = weights.data;
console.log(`y = ${a!.toFixed(2)} sin(x) ${b!.toFixed(2)}, by ${backend().name}`);
