// bun examples/first_bun.ts
import { Adam, backend, SGD } from "@flatstep/optim";

// Plain typed arrays are parameters too. Two groups: each learns at its own rate.
const matrix = new Float32Array(4 * 3), bias = new Float32Array(4);
const optimizer = new Adam([
  { params: [matrix], lr: 0.05, name: "matrix" },
  { params: [bias], lr: 0.2, name: "bias" },
]);

const target = Float32Array.from({ length: 16 }, (_, i) => Math.fround((i - 8) / 4));
const [m, b] = optimizer.paramGroups.flatMap((group) => group.params);
for (let step = 0; step < 400; step++) {
  m!.grad = matrix.map((w, i) => w - target[i]!); // the gradient of half the squared distance to the target
  b!.grad = bias.map((w, i) => w - target[12 + i]!);
  optimizer.step();
}
console.log("matrix", matrix.subarray(0, 4), "bias", bias);

// Checkpoint: a state dict is plain numbers and typed arrays, and survives structuredClone.
const saved = structuredClone(optimizer.stateDict());
const resumed = new Adam([[matrix], [bias]].map((params) => ({ params })));
resumed.loadStateDict(saved);
console.log("resumed at step", resumed.state.get(m!)!["step"], "with lr", resumed.paramGroups.map((group) => group.lr));

// Momentum, Nesterov, weight decay: torch's names, in camelCase. Errors say what to do.
try {
  new SGD([matrix], { lr: 0.1, nesterov: true });
} catch (error) {
  console.log((error as Error).message);
}
console.log(`by ${backend().name}, ${backend().isa}`);
