/**
 * Adapting a state dict, 3: parameters in another order, matched by their names.
 *
 * After torch's documentation of `Optimizer.register_load_state_dict_pre_hook`; flatstep can do it without a hook, too.
 */
import { assertEquals } from "@std/assert";
import { type AnyOptimizer, Parameter, SGD, type StateDict } from "@flatstep/optim";

const data: Record<string, number[]> = { "a.weight": [1, 2, 3], "a.bias": [4], "b.weight": [5, 6] };
const named = (names: string[]) => names.map((name) => [name, new Parameter(data[name]!)] as [string, Parameter]);

function step(params: [string, Parameter][], optimizer: SGD): void {
  for (const [, p] of params) p.grad = Float32Array.from(p.data, (w) => w / 2);
  optimizer.step();
}

const first = named(["a.weight", "a.bias", "b.weight"]), optimizer = new SGD(first, { lr: 0.1, momentum: 0.9 });
for (let i = 0; i < 3; i++) step(first, optimizer);
const saved = structuredClone(optimizer.stateDict());

/** Gives each parameter the state that was saved under its name. */
function byNames(target: AnyOptimizer, dict: StateDict): StateDict {
  const [now] = target.stateDict().paramGroups, [before] = dict.paramGroups;
  const state: StateDict["state"] = {};
  now!.paramNames!.forEach((name, id) => {
    state[id] = dict.state[before!.params[before!.paramNames!.indexOf(name)]!]!;
  });
  const { paramShapes: _s, paramDtypes: _d, ...options } = before!;
  return { state, paramGroups: [{ ...options, params: now!.params, paramNames: now!.paramNames! }] };
}

const order = ["b.weight", "a.weight", "a.bias"];
const hooked = named(order), withHook = new SGD(hooked);
withHook.registerLoadStateDictPreHook(byNames);
withHook.loadStateDict(saved);

const plain = named(order), withName = new SGD(plain);
withName.loadStateDict(saved, { match: "name" });

for (const [params, other] of [[hooked, withHook], [plain, withName]] as const) {
  assertEquals(other.paramGroups[0]!.momentum, 0.9);
  for (const [name, p] of params) {
    const source = first.find(([n]) => n === name)![1];
    assertEquals(other.state.get(p), optimizer.state.get(source), name);
  }
}
console.log("every parameter has the state that was saved under its name");
