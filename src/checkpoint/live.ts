/**
 * What ties pending saves to the objects that they are made of: how an optimizer or a model gives its state without a copy,
 * and how a save hears of a change while it is being written. The classes stand on higher floors and register here.
 *
 * @module
 */

/** An object's state as it is saved: live arrays, not copies. */
export interface LiveState {
  /** What `stateDict()` would give. */
  readonly dict: unknown;
  /** A number that rises with every change that the object knows of. */
  version(): number;
}

/** Gives an object's state without a copy; undefined for an object of another kind. */
export type LiveSource = (object: object) => LiveState | undefined;

const sources: LiveSource[] = [];

/** Registers a class of objects. */
export function addLiveSource(source: LiveSource): void {
  sources.push(source);
}

/** The live state of an object, or undefined where no class knows it. */
export function liveStateOf(object: object): LiveState | undefined {
  for (const source of sources) {
    const found = source(object);
    if (found) return found;
  }
  return undefined;
}

/** A save that has not ended yet. */
export interface PendingSave {
  /** The memory that it reads. */
  readonly buffers: ReadonlySet<ArrayBufferLike>;
  /** Set when that memory has changed. */
  changed: boolean;
}

/** All saves that have not ended yet. */
export const pendingSaves: Set<PendingSave> = new Set();

/**
 * Tells pending saves that the arrays of these tensors change. A caller in a hurry looks at `pendingSaves.size` first: then it
 * makes no function where none is pending.
 */
export function announceChange(arrays: () => Iterable<ArrayBufferView>): void {
  if (pendingSaves.size === 0) return;
  for (const { buffer } of arrays()) {
    for (const save of pendingSaves) {
      if (save.buffers.has(buffer)) save.changed = true;
    }
  }
}
