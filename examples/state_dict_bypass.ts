/**
 * Adapting a state dict, 2: a bypass layer is new, and begins with fresh state; the others go on with theirs.
 *
 * After torch's documentation of `Optimizer.register_load_state_dict_pre_hook`.
 */
import { assertEquals } from "@std/assert";
import { Adam, type AnyOptimizer, Parameter, type StateDict } from "@flatstep/optim";

const named = (names: string[]) =>
  names.map((name, i) => [name, new Parameter(new Float32Array(3).fill(i + 1))] as [string, Parameter]);

function step(params: [string, Parameter][], optimizer: Adam): void {
  for (const [, p] of params) p.grad = Float32Array.from(p.data, (w) => 2 * w);
  optimizer.step();
}

const old = named(["fc.weight", "out.weight"]), oldOptimizer = new Adam(old, { lr: 0.1 });
for (let i = 0; i < 5; i++) step(old, oldOptimizer);
const saved = structuredClone(oldOptimizer.stateDict());

// The bypass is in the middle, so that positions no longer fit.
const model = named(["fc.weight", "bypass.weight", "out.weight"]), optimizer = new Adam(model);

/** Puts the saved parameters where the new model has them, and leaves those that are new without state. */
function withBypass(target: AnyOptimizer, dict: StateDict): StateDict {
  const [now] = target.stateDict().paramGroups, [before] = dict.paramGroups;
  const state: StateDict["state"] = {};
  now!.paramNames!.forEach((name, id) => {
    const source = before!.paramNames!.indexOf(name);
    if (source >= 0) state[id] = dict.state[before!.params[source]!]!;
  });
  const { paramNames: _n, paramShapes: _s, paramDtypes: _d, ...options } = before!;
  return { state, paramGroups: [{ ...options, params: now!.params }] };
}

optimizer.registerLoadStateDictPreHook(withBypass);
optimizer.loadStateDict(saved);

const [fc, bypass, out] = model.map(([, p]) => p);
assertEquals(optimizer.state.get(fc!), oldOptimizer.state.get(old[0]![1]));
assertEquals(optimizer.state.has(bypass!), false);
assertEquals(optimizer.state.get(out!), oldOptimizer.state.get(old[1]![1]));
step(model, optimizer);
assertEquals(model.map(([, p]) => optimizer.state.get(p)!["step"]), [6, 1, 6]);

// The same without a hook: by name, where names may be missing.
const again = named(["fc.weight", "bypass.weight", "out.weight"]), byName = new Adam(again);
byName.loadStateDict(saved, { match: "name", strict: false });
step(again, byName);
assertEquals(again.map(([, p]) => byName.state.get(p)!["step"]), [6, 1, 6]);
console.log("the bypass is at step 1, the others at step 6");
