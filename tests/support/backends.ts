/**
 * Running something by every backend, instruction set and number of threads.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { getNumThreads, setNumThreads } from "../../mod.ts";
import { type Backend, GRAIN, type Isa } from "../../ffi/backend.ts";
import { bestBackend } from "../../ffi/load.ts";
import { override } from "../../src/foreach_plan.ts";

/** The instruction sets of this machine, the one in use last. */
export function isas(native: Backend): Isa[] {
  const best = native.isa;
  const all: Isa[] = ["sse2", "avx2", "avx512"];
  return all.includes(best) ? all.slice(0, all.indexOf(best) + 1) : [best];
}

/** Calls `body` for every instruction set and some numbers of threads, with a grain that gives work to all of them. */
export function everywhere(
  body: (compiled: Backend, threads: number, what: string) => void,
  threadCounts: readonly number[] = [1, 2, 5],
): void {
  const compiled = bestBackend(), best = compiled.isa, threads = getNumThreads();
  try {
    for (const isa of isas(compiled)) {
      compiled.setIsa(isa);
      assertEquals(compiled.isa, isa);
      for (const n of threadCounts) {
        setNumThreads(n);
        compiled.setGrain(64);
        body(compiled, n, `${isa}, ${n} threads`);
      }
    }
  } finally {
    compiled.setGrain(GRAIN);
    compiled.setIsa(best);
    setNumThreads(threads);
  }
}

/** Runs operations over lists by a backend of one's choice. */
export function withBackend<T>(backend: Backend, body: () => T): T {
  override.backend = backend;
  try {
    return body();
  } finally {
    override.backend = null;
  }
}
