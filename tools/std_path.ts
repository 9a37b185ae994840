/**
 * What this project uses of `@std/path`, over `node:path`: JSR cannot be reached from the machines that build it. The real
 * one is one line away, in deno.json.
 *
 * @module
 */

export { basename, dirname, isAbsolute, join, relative, resolve } from "node:path";
export { fileURLToPath as fromFileUrl, pathToFileURL as toFileUrl } from "node:url";
