/**
 * Adapting a state dict, 1: a layer becomes two experts, and both go on from the one layer's optimizer state.
 *
 * After torch's documentation of `Optimizer.register_load_state_dict_pre_hook`.
 */
import { assert, assertEquals } from "@std/assert";
import { AdamW, type AnyOptimizer, Parameter, type StateDict } from "@flatstep/optim";

const named = (names: string[]) =>
  names.map((name, i) => [name, new Parameter(new Float32Array(4).fill(i + 1))] as [string, Parameter]);

function train(params: [string, Parameter][], optimizer: AdamW, steps: number): void {
  for (let step = 0; step < steps; step++) {
    for (const [, p] of params) p.grad = Float32Array.from(p.data, (w, i) => w - i);
    optimizer.step();
  }
}

// The old model has one layer; its optimizer has state.
const old = named(["fc.weight", "fc.bias"]), oldOptimizer = new AdamW(old, { lr: 0.1 });
train(old, oldOptimizer, 10);
const saved = structuredClone(oldOptimizer.stateDict());

// The new one has two experts in its place.
const experts = named(["experts.0.weight", "experts.0.bias", "experts.1.weight", "experts.1.bias"]);
const optimizer = new AdamW(experts, { lr: 0.5 });

/** Gives every expert's parameter the state of the layer that it came from. */
function spread(target: AnyOptimizer, dict: StateDict): StateDict {
  const names = dict.paramGroups[0]!.paramNames!, state: StateDict["state"] = {};
  const [group] = target.stateDict().paramGroups;
  group!.paramNames!.forEach((name, id) => {
    const source = names.indexOf(name.replace(/^experts\.\d+\./, "fc."));
    state[id] = dict.state[dict.paramGroups[0]!.params[source]!]!;
  });
  const { paramShapes: _s, paramDtypes: _d, ...options } = dict.paramGroups[0]!;
  return { state, paramGroups: [{ ...options, params: group!.params, paramNames: group!.paramNames! }] };
}

const handle = optimizer.registerLoadStateDictPreHook(spread);
optimizer.loadStateDict(saved);
handle.remove();

for (const [name, p] of experts) {
  const source = old.find(([other]) => other === name.replace(/^experts\.\d+\./, "fc."))![1];
  assertEquals(optimizer.state.get(p), oldOptimizer.state.get(source), `${name} has the layer's state`);
}
const [a, b] = [experts[0]![1], experts[2]![1]];
assert(optimizer.state.get(a)!["expAvg"] !== optimizer.state.get(b)!["expAvg"], "the experts share no memory");
assertEquals(optimizer.paramGroups[0]!.lr, 0.1);
train(experts, optimizer, 1);
assertEquals(experts.map(([, p]) => optimizer.state.get(p)!["step"]), [11, 11, 11, 11]);
console.log("two experts go on from one layer's state, at step 11");
