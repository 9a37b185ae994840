/**
 * What is used of tfjs: no more, so that any copy and version of it will do that has this.
 *
 * @module
 */

// deno-lint-ignore-file no-explicit-any -- tfjs's own types go in and out unchanged

/** What is used of a tensor. */
export interface TfTensor {
  /** The lengths of its dimensions. */
  readonly shape: readonly number[];
  /** Its element type: must be `"float32"`. */
  readonly dtype: string;
  /** What its numbers are stored under. */
  readonly dataId: object;
  /** Whether `dispose()` has been called. */
  readonly isDisposed: boolean;
  /** Its numbers: on the cpu backend the live ones, else a copy. */
  dataSync(): any;
  /** Gives its memory back. */
  dispose(): void;
}

/** What is used of a variable. */
export interface TfVariable extends TfTensor {
  /** Its name, unique in tfjs. */
  readonly name: string;
  /** Whether it is trained. */
  trainable: boolean;
  /** Takes the numbers of a tensor over, and shares its memory from then on. */
  assign(value: any): void;
}

/** What is used of tfjs's own namespace. */
export interface TfApi {
  /** The backend in use. */
  backend(): any;
  /** Its name. */
  getBackend(): string;
  /** A new tensor. */
  tensor(values: any, shape?: any, dtype?: any): any;
  /** The loss, and its gradient by each variable that it depends on. */
  variableGrads(f: () => any, variables?: any): { value: any; grads: any };
}

/** What is used of a layer's weight. */
export interface TfLayerWeight {
  /** Its name as its layer gave it, behind those of its scopes. */
  readonly originalName: string;
  /** Whether it is trained. */
  readonly trainable: boolean;
  /** Its variable. */
  read(): any;
}

/** What is used of a layer; batch norms, wrappers and nested models have more. */
export interface TfLayer {
  /** Its name, unique in its model. */
  readonly name: string;
  /** Whether it is trained. */
  trainable: boolean;
  /** Its weights and those of the layers in it. */
  readonly weights: readonly any[];
}

/** What is used of a LayersModel. */
export interface TfLayersModel extends TfLayer {
  /** Its layers, in order. */
  readonly layers: readonly any[];
  /** Runs it. */
  apply(inputs: any, options?: any): any;
  /** What makes an equal model. */
  getConfig(): any;
  /** Gives its variables' memory back. */
  dispose(): any;
}
