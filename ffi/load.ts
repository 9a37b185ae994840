/**
 * Picks the backend, once, at the first use that needs one: native, else WASM, else TypeScript, with a reason for each "no".
 *
 * @module
 */

import { NativeLibraryError, show } from "../src/errors.ts";
import type { Backend, Isa } from "./backend.ts";
import { jsBackend } from "./js.ts";
import { NativeBackend } from "./native.ts";
import { prebuiltOf } from "./prebuilt.ts";
import { deno, env, isBun, openBun, openDeno, targets } from "./runtime.ts";
import { ABI_VERSION, toBun, toDeno } from "./symbols.ts";
import { unpack } from "./unpack.ts";
import { WasmBackend } from "./wasm.ts";

/** What is in use, as {@linkcode backend} tells it. */
export interface BackendInfo {
  /** How the update rules are run. */
  name: "deno-ffi" | "bun-ffi" | "wasm" | "js";
  /** The instruction set in use. */
  isa: Isa;
  /** Threads that a step may use. */
  threads: number;
  /** The path of the native library, or null where none is open. */
  library: string | null;
  /** Why nothing better is in use. */
  why?: string;
}

interface Choice {
  /** What runs groups that leave the choice to the library. */
  readonly best: Backend;
  /** Compiled code, if there is any. */
  readonly compiled: Backend | null;
  /** Why there is none. */
  readonly why: string | undefined;
}

const NAMES: Record<string, string> = { win32: "flatstep.dll", darwin: "libflatstep.dylib" };
const ISA_NAMES: readonly Isa[] = ["sse2", "avx2", "avx512", "neon"];

let choice: Choice | undefined;
const watchers = new Set<(backend: Backend) => void>();
let threads: number | undefined;

/**
 * Where the library may be, in order: the path that was given, else a file beside the sources, else the prebuilt one, which is
 * unpacked when it is asked for. Each may throw a reason.
 */
function candidates(): (() => string)[] {
  const given = env("FLATSTEP_LIBRARY");
  if (given !== undefined) return [() => given];
  const names = targets(), beside = import.meta.url.startsWith("file:") ? names : [];
  return [
    ...beside.map((name) => () => {
      const file = NAMES[name.split("-")[0]!] ?? "libflatstep.so";
      return fromFileUrl(new URL(`../lib/${name}/${file}`, import.meta.url));
    }),
    ...names.map((name) => () => {
      try {
        return unpack(name, prebuiltOf(name));
      } catch (error) {
        throw new Error(`prebuilt ${name}: ${(error as Error).message.split("\n")[0]}`);
      }
    }),
  ];
}

function fromFileUrl(url: URL): string {
  const path = decodeURIComponent(url.pathname);
  return /^\/[A-Za-z]:\//.test(path) ? path.slice(1).replaceAll("/", "\\") : path;
}

/** Opens the native library, or says why not. */
function openNative(): { backend: NativeBackend | null; why: string } {
  if (!deno && !isBun) return { backend: null, why: "native libraries can be opened in Deno and in Bun only" };
  const reasons: string[] = [];
  for (const candidate of candidates()) {
    let path = "";
    try {
      path = candidate();
      const open = (names?: readonly string[]) => deno ? openDeno(path, toDeno(names)) : openBun(path, toBun(names));
      const version = open(["fs_abi_version"]).fs_abi_version(); // another version may lack other functions
      if (version !== ABI_VERSION) {
        reasons.push(`${path}: it has ABI version ${version}, and ${ABI_VERSION} is needed`);
        continue;
      }
      return { backend: new NativeBackend(deno ? "deno-ffi" : "bun-ffi", path, open()), why: "" };
    } catch (error) {
      reasons.push(`${path && `${path}: `}${(error as Error).message.split("\n")[0]}`);
    }
  }
  return { backend: null, why: reasons.join("\n") };
}

/** Makes the WASM backend, or says why not. */
function openWasm(): { backend: WasmBackend | null; why: string } {
  try {
    return { backend: new WasmBackend(), why: "" };
  } catch (error) {
    return { backend: null, why: `WASM: ${(error as Error).message.split("\n")[0]}` };
  }
}

function failure(asked: string, why: string): NativeLibraryError {
  return new NativeLibraryError(
    `${asked}, but the native library cannot be opened:\n${why.split("\n").map((line) => `  ${line}`).join("\n")}\n` +
      "To mend it: give Deno --allow-ffi; in a checkout, build it by `deno task build`; or set FLATSTEP_LIBRARY to its path.\n" +
      "Without it: leave `foreach`, `fused` and FLATSTEP_BACKEND unset, and the steps run in WASM or in TypeScript.",
  );
}

function choose(): Choice {
  const asked = env("FLATSTEP_BACKEND");
  if (asked !== undefined && !["js", "wasm", "native"].includes(asked)) {
    throw new RangeError(`FLATSTEP_BACKEND must be js, wasm or native, got ${show(asked)}`);
  }
  if (asked === "js") return { best: jsBackend, compiled: null, why: "FLATSTEP_BACKEND is js" };
  const { backend, why } = asked === "wasm" ? { backend: null, why: "FLATSTEP_BACKEND is wasm" } : openNative();
  if (backend === null) {
    if (asked === "native") throw failure("FLATSTEP_BACKEND is native", why);
    const wasm = openWasm();
    if (wasm.backend !== null) return { best: wasm.backend, compiled: wasm.backend, why };
    if (asked === "wasm") throw new NativeLibraryError(`FLATSTEP_BACKEND is wasm, but it cannot be had: ${wasm.why}`);
    return { best: jsBackend, compiled: null, why: `${why}\n${wasm.why}` };
  }
  const isa = env("FLATSTEP_ISA");
  if (isa !== undefined) {
    if (!ISA_NAMES.includes(isa as Isa)) {
      throw new RangeError(`FLATSTEP_ISA must be one of ${ISA_NAMES.join(", ")}, got ${show(isa)}`);
    }
    backend.setIsa(isa as Isa);
  }
  const awake = env("FLATSTEP_AWAKE");
  if (awake !== undefined) {
    if (awake !== "0" && awake !== "1") throw new RangeError(`FLATSTEP_AWAKE must be 0 or 1, got ${show(awake)}`);
    backend.setAwake(awake === "1");
  }
  return { best: backend, compiled: backend, why: undefined };
}

function firstChoice(): Choice {
  choice = choose();
  for (const watch of watchers) watch(choice.best);
  return choice;
}

/**
 * Tells of the backend that was chosen, now or when it is.
 *
 * @returns ends it
 */
export function watchBackends(watch: (backend: Backend) => void): () => void {
  watchers.add(watch);
  if (choice !== undefined) watch(choice.best);
  return () => void watchers.delete(watch);
}

/** What runs groups that leave the choice to the library. */
export function bestBackend(): Backend {
  return (choice ?? firstChoice()).best;
}

/**
 * Compiled code, for groups that ask for it.
 *
 * @param asked what asked for it, for the message: `"foreach is true"`
 * @throws {NativeLibraryError} if there is none
 */
export function compiledBackend(asked: string): Backend {
  const { compiled, why } = choice ?? firstChoice();
  if (compiled === null) throw failure(asked, why ?? "");
  return compiled;
}

/**
 * Tells what runs the steps. The first call opens the native library, if it may.
 *
 * @returns the backend's name, instruction set, threads, library, and why nothing better is in use
 * @throws {NativeLibraryError} if FLATSTEP_BACKEND asks for a backend that cannot be had
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { backend } from "@flatstep/optim";
 *
 * const { name, threads } = backend();
 * assert(["deno-ffi", "bun-ffi", "wasm", "js"].includes(name) && threads >= 1);
 * ```
 */
export function backend(): BackendInfo {
  const best = bestBackend(), why = choice!.why;
  return {
    name: best.name,
    isa: best.isa,
    threads: best.library === null ? 1 : getNumThreads(),
    library: best.library,
    ...(why === undefined ? {} : { why }),
  };
}

/**
 * Sets how many threads a step may use; small steps use one all the same. Results do not depend on it.
 *
 * @param n the number of threads, an integer >= 1; the library has at most 64
 * @throws {TypeError} if it is no number
 * @throws {RangeError} if n is anything else
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { getNumThreads, setNumThreads } from "@flatstep/optim";
 *
 * const before = getNumThreads();
 * setNumThreads(1);
 * assert(getNumThreads() === 1);
 * setNumThreads(before);
 * ```
 */
export function setNumThreads(n: number): void {
  if (typeof n !== "number") throw new TypeError(`n must be a number, got ${show(n)}`);
  if (!Number.isSafeInteger(n) || n < 1) throw new RangeError(`n must be an integer >= 1, got ${show(n)}`);
  threads = n;
}

/**
 * Tells how many threads a step may use: what `setNumThreads` or FLATSTEP_NUM_THREADS said, else the processors there are.
 *
 * @returns the number of threads
 * @throws {RangeError} if FLATSTEP_NUM_THREADS is no integer >= 1
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { getNumThreads } from "@flatstep/optim";
 *
 * assert(getNumThreads() >= 1);
 * ```
 */
export function getNumThreads(): number {
  if (threads === undefined) {
    const text = env("FLATSTEP_NUM_THREADS");
    if (text === undefined) {
      threads = bestBackend().cpus;
    } else {
      const n = Number(text);
      if (!Number.isSafeInteger(n) || n < 1) {
        throw new RangeError(`FLATSTEP_NUM_THREADS must be an integer >= 1, got ${show(text)}`);
      }
      threads = n;
    }
  }
  return threads;
}
