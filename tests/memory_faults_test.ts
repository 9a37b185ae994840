/** Wrong arrays, wrong state, wrong groups: a step that meets them says so, and has changed nothing. */

import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type AdamWOptions, Parameter, type ParamGroup, SGD, type TypedArray } from "../mod.ts";
import { capture, copied, detach, force, gradOf, group, inEachMode, swap, Twin } from "./support/twin.ts";

/** Something wrong, and how it is put right again. */
interface Fault {
  /** `a step refuses …` */
  readonly what: string;
  readonly error: new (message?: string) => Error;
  /** What the message must have in it. */
  readonly says: readonly string[];
  /** Only where there is state already. */
  readonly needsState?: boolean;
  /** Makes it wrong; the gradients of the next step are there already. Returns what puts it right. */
  readonly make: (twin: Twin) => () => void;
}

const FAULTS: readonly Fault[] = [
  {
    what: "a gradient that is too short",
    error: RangeError,
    says: ['grad of paramGroups[1].params[0] ("w3")', "1001 elements", "got 1000"],
    make: ({ params }) => swap(params[3]!, "grad", new Float32Array(1000)),
  },
  {
    what: "a gradient that is too long",
    error: RangeError,
    says: ['grad of paramGroups[0].params[1] ("w1")', "1000 elements", "got 1001"],
    make: ({ params }) => swap(params[1]!, "grad", new Float32Array(1001)),
  },
  {
    what: "a gradient of another dtype",
    error: TypeError,
    says: ['grad of paramGroups[1].params[1] ("w4")', "a Float32Array of 12", "a Float64Array of 12"],
    make: ({ params }) => swap(params[4]!, "grad", new Float64Array(12)),
  },
  {
    what: "a gradient of plain numbers",
    error: TypeError,
    says: ['grad of paramGroups[0].params[2] ("w2")', "a Float32Array of 300", "an Array"],
    make: ({ params }) => swap(params[2]!, "grad", new Array(300).fill(0)),
  },
  {
    what: "a gradient that is no array at all",
    error: TypeError,
    says: ['grad of paramGroups[0].params[2] ("w2")', "got 1"],
    make: ({ params }) => swap(params[2]!, "grad", 1),
  },
  {
    what: "a gradient that has been transferred away",
    error: RangeError,
    says: ['grad of paramGroups[1].params[1] ("w4")', "got 0"],
    make: ({ params }) => {
      const grad = copied(gradOf(params[4]!));
      detach(gradOf(params[4]!));
      return () => params[4]!.grad = grad;
    },
  },
  {
    what: "a gradient that has been posted away by structuredClone",
    error: RangeError,
    says: ['grad of paramGroups[0].params[0] ("w0")', "got 0"],
    make: ({ params }) => {
      const grad = gradOf(params[0]!);
      const moved = structuredClone(grad, { transfer: [grad.buffer as ArrayBuffer] });
      return () => params[0]!.grad = moved;
    },
  },
  {
    what: "a gradient in a part of a parameter",
    error: RangeError,
    says: ['grad of paramGroups[1].params[1] ("w4")', 'data of paramGroups[0].params[1] ("w1")', "share memory"],
    make: ({ params }) => swap(params[4]!, "grad", params[1]!.data.subarray(988)),
  },
  {
    what: "a gradient that is its own parameter's array",
    error: RangeError,
    says: ['grad of paramGroups[0].params[0] ("w0")', 'data of paramGroups[0].params[0] ("w0")', "share memory"],
    make: ({ params }) => swap(params[0]!, "grad", params[0]!.data),
  },
  {
    what: "a gradient that is a state tensor",
    error: RangeError,
    says: ['grad of paramGroups[1].params[1] ("w4")', 'expAvgSq of paramGroups[1].params[1] ("w4")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.params[4]!, "grad", twin.state(4)["expAvgSq"]),
  },
  {
    what: "a gradient in a part of another parameter's state",
    error: RangeError,
    says: ['grad of paramGroups[0].params[0] ("w0")', 'expAvg of paramGroups[1].params[0] ("w3")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.params[0]!, "grad", (twin.state(3)["expAvg"] as TypedArray).subarray(1, 8)),
  },
  {
    what: "data that has been replaced by a shorter array",
    error: RangeError,
    says: ['data of paramGroups[1].params[0] ("w3")', "1001 elements", "got 1000"],
    make: ({ params }) => swap(params[3]!, "data", new Float32Array(1000)),
  },
  {
    what: "data that has been replaced by a longer array",
    error: RangeError,
    says: ['data of paramGroups[0].params[0] ("w0")', "7 elements", "got 8"],
    make: ({ params }) => swap(params[0]!, "data", new Float32Array(8)),
  },
  {
    what: "data that has been replaced by an array of another dtype",
    error: TypeError,
    says: ['data of paramGroups[1].params[1] ("w4")', "a Float32Array of 12", "a Float64Array of 12"],
    make: ({ params }) => swap(params[4]!, "data", new Float64Array(12)),
  },
  {
    what: "data that has been replaced by null",
    error: TypeError,
    says: ['data of paramGroups[0].params[1] ("w1")', "got null"],
    make: ({ params }) => swap(params[1]!, "data", null),
  },
  {
    what: "data that has been transferred away",
    error: RangeError,
    says: ['data of paramGroups[1].params[0] ("w3")', "got 0"],
    make: ({ params }) => {
      const buffer = detach(params[3]!.data);
      return () => params[3]!.data = new Float32Array(buffer);
    },
  },
  {
    what: "data that has been posted away by structuredClone",
    error: RangeError,
    says: ['data of paramGroups[0].params[0] ("w0")', "got 0"],
    make: ({ params }) => {
      const { data } = params[0]!, moved = structuredClone(data, { transfer: [data.buffer as ArrayBuffer] });
      return () => params[0]!.data = moved;
    },
  },
  {
    what: "data that has been replaced by memory of another parameter",
    error: RangeError,
    says: ['data of paramGroups[0].params[2] ("w2")', 'data of paramGroups[1].params[0] ("w3")', "share memory"],
    make: ({ params }) => swap(params[2]!, "data", params[3]!.data.subarray(700, 1000)),
  },
  {
    what: "data that has been replaced by a state tensor",
    error: RangeError,
    says: ['paramGroups[0].params[2] ("w2")', 'paramGroups[0].params[1] ("w1")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.params[2]!, "data", (twin.state(1)["expAvg"] as TypedArray).subarray(0, 300)),
  },
  {
    what: "a state tensor that is too short",
    error: RangeError,
    says: ['expAvgSq of paramGroups[1].params[0] ("w3")', "1001 elements", "got 3"],
    needsState: true,
    make: (twin) => swap(twin.state(3), "expAvgSq", new Float32Array(3)),
  },
  {
    what: "a state tensor of another dtype",
    error: TypeError,
    says: ['maxExpAvgSq of paramGroups[0].params[2] ("w2")', "a Float32Array of 300", "a Float64Array of 300"],
    needsState: true,
    make: (twin) => swap(twin.state(2), "maxExpAvgSq", new Float64Array(300)),
  },
  {
    what: "a number in place of a state tensor",
    error: TypeError,
    says: ['expAvg of paramGroups[0].params[1] ("w1")', "got 0"],
    needsState: true,
    make: (twin) => swap(twin.state(1), "expAvg", 0),
  },
  {
    what: "a state tensor that has been transferred away",
    error: RangeError,
    says: ["expAvg of paramGroups[1]", "got 0"], // compiled code keeps the state of small tensors in one block: all of it has gone
    needsState: true,
    make: (twin) => {
      const array = twin.state(4)["expAvg"] as TypedArray;
      const gone = [...twin.optimizer.state.values()].flatMap((state) =>
        Object.entries(state).flatMap(([key, value]) => {
          if (!ArrayBuffer.isView(value) || value.buffer !== array.buffer) return [];
          return [{ state, key, at: value.byteOffset, n: value.length }];
        })
      );
      const buffer = detach(array);
      return () => gone.forEach(({ state, key, at, n }) => state[key] = new Float32Array(buffer, at, n));
    },
  },
  {
    what: "a state tensor that is its own parameter's gradient",
    error: RangeError,
    says: ['expAvg of paramGroups[0].params[2] ("w2")', 'grad of paramGroups[0].params[2] ("w2")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.state(2), "expAvg", twin.params[2]!.grad),
  },
  {
    what: "a state tensor in a gradient of a parameter before it",
    error: RangeError,
    says: ['expAvgSq of paramGroups[1].params[1] ("w4")', 'grad of paramGroups[0].params[1] ("w1")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.state(4), "expAvgSq", gradOf(twin.params[1]!).subarray(500, 512)),
  },
  {
    what: "a state tensor in a gradient of a parameter behind it",
    error: RangeError,
    says: ['expAvg of paramGroups[0].params[0] ("w0")', 'grad of paramGroups[1].params[0] ("w3")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.state(0), "expAvg", gradOf(twin.params[3]!).subarray(0, 7)),
  },
  {
    what: "a state tensor that is another parameter's",
    error: RangeError,
    says: ['expAvg of paramGroups[1].params[1] ("w4")', 'expAvgSq of paramGroups[0].params[1] ("w1")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.state(4), "expAvg", (twin.state(1)["expAvgSq"] as TypedArray).subarray(0, 12)),
  },
  {
    what: "one array as two state tensors",
    error: RangeError,
    says: ['expAvg of paramGroups[0].params[0] ("w0")', 'expAvgSq of paramGroups[0].params[0] ("w0")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.state(0), "expAvgSq", twin.state(0)["expAvg"]),
  },
  {
    what: "a count of steps that is NaN",
    error: TypeError,
    says: ['step of paramGroups[1].params[0] ("w3")', "got NaN"],
    needsState: true,
    make: (twin) => swap(twin.state(3), "step", NaN),
  },
  {
    what: "a count of steps that is missing",
    error: TypeError,
    says: ['step of paramGroups[0].params[1] ("w1")', "got undefined"],
    needsState: true,
    make: (twin) => {
      const state = twin.state(1), { step } = state;
      force(state, "step", undefined);
      return () => state["step"] = step!;
    },
  },
  {
    what: "a parameter that was pushed twice",
    error: RangeError,
    says: ["paramGroups[0].params[2]", "paramGroups[1].params[2]"],
    make: (twin) => {
      group(twin, 1).params.push(twin.params[2]!);
      return () => group(twin, 1).params.pop();
    },
  },
  {
    what: "a typed array that was pushed as a parameter",
    error: TypeError,
    says: ["paramGroups[1].params[2] must be a Parameter", "a Float32Array of 4"],
    make: (twin) => {
      (group(twin, 1).params as unknown[]).push(new Float32Array(4));
      return () => group(twin, 1).params.pop();
    },
  },
  {
    what: "a pushed parameter in the memory of another",
    error: RangeError,
    says: ["data of paramGroups[1].params[2]", 'data of paramGroups[0].params[1] ("w1")', "share memory"],
    make: (twin) => {
      group(twin, 1).params.push(new Parameter(twin.params[1]!.data.subarray(3, 9)));
      return () => group(twin, 1).params.pop();
    },
  },
  {
    what: "a learning rate that is NaN",
    error: RangeError,
    says: ["lr must be >= 0, got NaN", "paramGroups[1]"],
    make: (twin) => swap(group(twin, 1), "lr", NaN),
  },
  {
    what: "a learning rate that is no number",
    error: TypeError,
    says: ['lr must be a number, got "0.1"', "paramGroups[0]"],
    make: (twin) => swap(group(twin, 0), "lr", "0.1"),
  },
  {
    what: "an unknown key in a group",
    error: TypeError,
    says: ['AdamW has no option "learningRate"', "paramGroups[1]"],
    make: (twin) => swap(group(twin, 1) as ParamGroup<AdamWOptions> & { learningRate?: number }, "learningRate", 0.1),
  },
  {
    what: "a second implementation in a group",
    error: TypeError,
    says: ["foreach and fused must not both be true", "paramGroups[1]"],
    make: (twin) => {
      const undo = [swap(group(twin, 1), "foreach", true), swap(group(twin, 1), "fused", true)];
      return () => undo.forEach((call) => call());
    },
  },
];

for (const { what, error, says, needsState = false, make } of FAULTS) {
  inEachMode(`step() refuses ${what}, changes nothing, and goes on as if it had not been`, (mode) => {
    for (const before of needsState ? [1, 3] : [0, 2]) {
      const twin = new Twin(mode);
      twin.run(before);
      twin.grads();
      const mend = make(twin), assertUnchanged = capture(twin);
      for (let attempt = 0; attempt < 2; attempt++) {
        const { message } = assertThrows(() => twin.optimizer.step(), error);
        for (const text of says) assert(message.includes(text), `after ${before} steps: ${message}\nlacks ${text}`);
        assertUnchanged();
      }
      mend();
      twin.step();
      twin.check();
      twin.run(2);
    }
  });
}

inEachMode("step() with a closure that throws changes nothing", (mode) => {
  for (const before of [0, 2]) {
    const twin = new Twin(mode);
    twin.run(before);
    twin.grads();
    const assertUnchanged = capture(twin);
    assertThrows(
      () =>
        twin.optimizer.step(() => {
          throw new RangeError("from the closure");
        }),
      RangeError,
      "from the closure",
    );
    assertUnchanged();
    twin.step();
    twin.check();
    twin.run();
  }
});

test("a constructor refuses parameters that share memory", () => {
  const data = new Float32Array(10);
  const whole = new Parameter(data, { name: "whole" }), part = new Parameter(data.subarray(8), { name: "part" });
  for (const params of [[whole, part], [{ params: [whole] }, { params: [part] }]]) {
    const error = assertThrows(() => new SGD(params as Parameter[]), RangeError, "share memory");
    for (const name of ["whole", "part"]) assert(error.message.includes(`"${name}"`), error.message);
  }
  new SGD([new Parameter(data.subarray(0, 5)), new Parameter(data.subarray(5))]); // side by side
});

test("a constructor refuses views of different kinds that share memory", () => {
  const bytes = new ArrayBuffer(64);
  const params = [new Parameter(new Float32Array(bytes, 0, 4)), new Parameter(new Float64Array(bytes, 8, 4))];
  assertThrows(() => new SGD(params), RangeError, "share memory");
});

test("addParamGroup() refuses parameters that share memory with others, and adds nothing", () => {
  const data = new Float32Array(10), optimizer = new SGD([new Parameter(data)]);
  assertThrows(
    () => optimizer.addParamGroup({ params: [new Parameter(data.subarray(2, 3))] }),
    RangeError,
    "share memory",
  );
  assertEquals(optimizer.paramGroups.length, 1);
  optimizer.step();
});
