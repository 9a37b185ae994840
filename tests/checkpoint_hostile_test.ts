import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { join } from "@std/path";
import fc from "fast-check";
import { Adam, CheckpointError, load, Parameter, save } from "../mod.ts";
import { FileReader } from "../src/checkpoint/file.ts";
import { platform } from "../src/checkpoint/platform.ts";
import { ZipReader } from "../src/checkpoint/zip.ts";
import {
  concat,
  GOLDEN,
  pickle,
  readJson,
  safetensors,
  tensor,
  torchFile,
  withFolder,
  zip,
  type ZipRecord,
} from "./support/checkpoints.ts";

/** The memory of the process. */
const memory = () => process.memoryUsage().rss / 2 ** 20;

/** Loads bytes as a file; they must be refused, with this reason, soon and without much memory. */
async function refused(bytes: Uint8Array, ending: string, reason: string): Promise<void> {
  await withFolder(async (folder) => {
    const path = join(folder, `file${ending}`);
    writeFileSync(path, bytes);
    const before = memory(), start = performance.now();
    const error = await assertRejects(() => load(path), CheckpointError, reason);
    assert(error.message.startsWith(`${path}: `), error.message);
    assert(performance.now() - start < 20_000, `took ${performance.now() - start} ms`);
    assert(memory() - before < 1200, `took ${memory() - before} MB`); // garbage of earlier tests may be in it
  });
}

const repeat = (part: Uint8Array, count: number): Uint8Array => {
  const all = new Uint8Array(part.length * count);
  for (let i = 0; i < count; i++) all.set(part, i * part.length);
  return all;
};
const floats = new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer);

test("load() refuses a record that is said to become gigabytes out of kilobytes", async () => {
  const bomb = (size: number, claimed = size) =>
    zip([
      {
        name: "a/data.pkl",
        data: pickle("\x80\x02", tensor("0", claimed / 4, pickle("K\x04\x85"), pickle("K\x01\x85")), "."),
      },
      { name: "a/data/0", data: new Uint8Array(size), deflate: true, size: claimed },
    ]);
  await refused(bomb(200 << 20), ".pt", "is said to become 209715200 bytes out of");
  await refused(bomb(200 << 20, 16), ".pt", "is not 16 bytes long");
  await refused(bomb(1000, 0x7ffffff0), ".pt", "is said to become 2147483632 bytes out of");
});

test("load() takes time and memory for the lists that there are, not for those that they stand for", async () => {
  // each list has the one before it twice: 60 of them stand for 2^60 numbers
  const levels = Array.from({ length: 60 }, (_, i) => pickle("]q", i + 1, "h", i, "ah", i, "a"));
  await withFolder(async (folder) => {
    const path = join(folder, "lists.pt");
    writeFileSync(path, torchFile(pickle("(]q\0K\x05a", ...levels, "t")));
    let list = (await load(path)).at(-1);
    for (let i = 0; i < 60; i++) {
      assert(list[0] === list[1]);
      list = list[0];
    }
    assertEquals(list, [5]);
  });
});

test("load() refuses more lists, tuples and dicts than memory should be given for", async () => {
  await refused(torchFile(pickle("(", repeat(pickle("}"), 3_000_000), "t")), ".pt", "more than 2000000");
  const pairs = pickle("](", repeat(pickle("K\x01K\x02\x86"), 1000), "eq\0");
  const copies = repeat(pickle("ccollections\nOrderedDict\nh\0\x85R"), 3000);
  await refused(torchFile(pickle("(", pairs, copies, "t")), ".pt", "more than 2000000");
});

test("load() refuses marks without end, and a stack that is not there", async () => {
  await refused(torchFile(repeat(pickle("("), 1_000_000)), ".pt", "too many lists and dicts");
  await refused(torchFile(pickle("t")), ".pt", "a mark that is not there");
  await refused(torchFile(pickle("\x86")), ".pt", "more from the stack");
  await refused(torchFile(pickle("NN")), ".pt", "leaves something");
  await refused(torchFile(pickle("")), ".pt", "more from the stack");
});

test("load() refuses a pickle larger than plain values are", async () => {
  await refused(torchFile(new Uint8Array(65 << 20)), ".pt", "at most 67108864 are allowed");
});

test("load() refuses views that repeat a storage without end, and takes a few", async () => {
  // a million rows of one element, with stride 0: 4 MB out of 4 bytes, again and again
  const shape = pickle("J", new Uint8Array(Int32Array.of(1_000_000).buffer), "\x85"), strides = pickle("K\0\x85");
  const view = tensor("0", 4, shape, strides);
  await refused(torchFile(pickle("(", repeat(view, 100), "t"), { 0: floats }), ".pt", "repeats what is in the file");
  await withFolder(async (folder) => {
    const path = join(folder, "views.pt");
    writeFileSync(path, torchFile(view, { 0: floats }));
    assertEquals((await load(path)).data, new Float32Array(1_000_000).fill(1));
  });
});

test("load() refuses calls of what may only be named, and arguments that are none", async () => {
  const ordered = "ccollections\nOrderedDict\n";
  for (
    const [body, reason] of [
      ["ctorch\nFloatStorage\n)R", "calls torch.FloatStorage"],
      ["ctorch\nfloat32\n)R", "calls torch.float32"],
      ["]K\x01\x85R", "calls something"],
      [`${ordered}NR`, "calls collections.OrderedDict"],
      [`${ordered}K\x01\x85R`, "something else than pairs"],
      [`${ordered}]K\x01aK\x02a\x85R`, "something else than pairs"],
      ["ctorch._utils\n_rebuild_parameter\nK\x01\x85R", "no tensor"],
      ["ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01))tR", "no storage"],
      ["ctorch._utils\n_rebuild_sparse_tensor\nNN\x86R", "sparse tensor"],
      ["ctorch.serialization\n_get_layout\nN\x85R", "layout"],
      [
        "ctorch._tensor\n_rebuild_from_type_v2\n(ccollections\nOrderedDict\nctorch\nTensor\n)NtR",
        "something else than torch's",
      ],
      ["]}b", "fills an object"],
      ["}]K\x01s", "neither a string nor a number"],
      ["K\x01Q", "no storage"],
      ["ctorch\nFloatStorage\n", "no plain value"],
    ] as const
  ) {
    await refused(torchFile(pickle(body)), ".pt", reason);
  }
});

test("load() refuses an archive whose records overlap, or are there twice", async () => {
  const good = { name: "a/data.pkl", data: pickle("\x80\x02N.") };
  await refused(zip([good, { name: "a/x", data: floats, offset: 4 }]), ".pt", "overlap");
  await refused(zip([good, good]), ".pt", "twice");
  await refused(zip([good, { name: "b/data.pkl", data: good.data }]), ".pt", "no data.pkl");
  await refused(zip([{ ...good, offset: 1 << 30 }]), ".pt", "beyond the end");
});

test("load() refuses a safetensors header that is deep, and a tree in its metadata that is none", async () => {
  const deep = "[".repeat(200_000) + "]".repeat(200_000);
  await refused(safetensors(`{"a":${deep}}`), ".safetensors", "");
  const tree = (json: string) => safetensors({ __metadata__: { flatstep: json } });
  await refused(tree(deep), ".safetensors", "");
  await refused(tree("{"), ".safetensors", "no JSON");
  await refused(tree('{"$tensor":"a"}'), ".safetensors", 'names a tensor "a", which is not there');
  await refused(tree('{"$exec":"a"}'), ".safetensors", '"$exec" where it means nothing');
  await refused(tree('{"$bigint":"1e9"}'), ".safetensors", "where it means nothing");
  await refused(tree(`{"$bigint":"${"9".repeat(1_000_000)}"}`), ".safetensors", "where it means nothing");
  await refused(tree('{"$number":"__proto__"}'), ".safetensors", "where it means nothing");
  await refused(tree('{"$object":[["a"]]}'), ".safetensors", "no tree");
  const one = { dtype: "F32", shape: [1], data_offsets: [0, 4] };
  const with_ = (json: string) => safetensors({ __metadata__: { flatstep: json }, a: one }, new Uint8Array(4));
  await refused(with_("{}"), ".safetensors", 'a tensor "a", which its metadata does not name');
  await refused(with_('{"$array":"a","as":"Float64Array"}'), ".safetensors", "where it means nothing");
  await refused(with_('{"$array":"a","as":"eval"}'), ".safetensors", "where it means nothing");
});

test("load() refuses a file that is not there, a folder, and a pipe", async () => {
  await withFolder(async (folder) => {
    await assertRejects(() => load(join(folder, "none.pt")), CheckpointError, "ENOENT");
    await assertRejects(() => load(`${folder}/../${folder.split("/").pop()}.pt`), CheckpointError, "ENOENT");
    if (process.platform === "win32") return;
    const pipe = join(folder, "pipe.pt");
    execFileSync("mkfifo", [pipe]);
    await assertRejects(() => load(pipe), CheckpointError, `${pipe}: it is no file`);
  });
});

/** Files to change: golden ones, and ours. */
async function originals(folder: string): Promise<{ ending: string; bytes: Uint8Array }[]> {
  const p = new Parameter([1, 2, 3]), optimizer = new Adam([p]);
  p.grad = Float32Array.of(1, 2, 3);
  optimizer.step();
  const files: string[] = [];
  for (const ending of [".pt", ".safetensors"]) {
    files.push(join(folder, `ours${ending}`));
    await save(files.at(-1)!, { optimizer, big: 5n, list: [1, NaN, { a: Uint8Array.of(1) }], name: "é" });
  }
  const good = readdirSync(GOLDEN).filter((name) => name.endsWith(".json") && name !== "hostile.json");
  for (const name of good) files.push(join(GOLDEN, readJson(name).file));
  return files.map((file) => ({ ending: file.endsWith(".pt") ? ".pt" : ".safetensors", bytes: readFileSync(file) }));
}

/** Somewhere in a file, as a fraction: evenly, which fc.double() is not. */
const place = fc.nat(999_999).map((n) => n / 1_000_000);

test("load() of a file with random changes gives a CheckpointError or a value, and nothing else", async () => {
  await withFolder(async (folder) => {
    const files = await originals(folder);
    const change = fc.record({ at: place, to: fc.nat(255), length: fc.nat(6) });
    let kept = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.nat(files.length - 1),
        fc.array(change, { maxLength: 4 }),
        fc.option(place, { freq: 4 }),
        async (which, changes, cut) => {
          const { ending, bytes } = files[which]!, changed = Uint8Array.from(bytes);
          for (const { at, to, length } of changes) {
            const from = Math.floor(at * changed.length);
            changed.fill(to, from, from + 1 + length);
          }
          const path = join(folder, `changed${ending}`);
          writeFileSync(path, cut === null ? changed : changed.subarray(0, Math.floor(cut * changed.length)));
          try {
            await load(path);
            kept++;
          } catch (error) {
            assert(error instanceof CheckpointError, String((error as Error).stack));
            assertEquals(error.path, path);
          }
          assertEquals(Object.keys(Object.prototype), []);
        },
      ),
      { numRuns: 1000 },
    );
    assert(kept > 10, `only ${kept} were loaded`);
  });
});

test("load() of an archive in which pickle or marks have changed, with the right checksums, is as safe", async () => {
  await withFolder(async (folder) => {
    const { zlib } = await platform(), archives: ZipRecord[][] = [];
    for (const { ending, bytes } of await originals(folder)) {
      if (ending !== ".pt" || bytes[0] !== 0x50) continue;
      writeFileSync(join(folder, "original.pt"), bytes);
      const handle = await open(join(folder, "original.pt"));
      const reader = await ZipReader.open(new FileReader(handle, bytes.length), zlib), records: ZipRecord[] = [];
      for (const entry of reader.entries.values()) {
        records.push({ name: entry.name, data: await reader.content(entry) });
      }
      await handle.close();
      archives.push(records);
    }
    assert(archives.length > 10);
    const change = fc.record({ at: place, to: fc.nat(255), length: fc.nat(2) });
    let kept = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.nat(archives.length - 1),
        fc.array(change, { minLength: 1, maxLength: 3 }),
        async (which, changes) => {
          const path = join(folder, "changed.pt");
          const records = archives[which]!.map(({ name, data }) => {
            const changed = Uint8Array.from(data);
            for (const { at, to, length } of changes) {
              const from = Math.floor(at * changed.length);
              if (/pkl$|json$/.test(name)) changed.fill(to, from, from + 1 + length);
            }
            return { name, data: changed };
          });
          writeFileSync(path, zip(records));
          try {
            await load(path);
            kept++;
          } catch (error) {
            assert(error instanceof CheckpointError, String((error as Error).stack));
          }
          assertEquals(Object.keys(Object.prototype), []);
        },
      ),
      { numRuns: 1000 },
    );
    assert(kept > 10, `only ${kept} were loaded`);
  });
});

test("load() of a pickle of random opcodes gives a CheckpointError or a value, and nothing else", async () => {
  const op = fc.oneof(
    fc.constantFrom(...".()NRQ]}abtuseh\0q\0\x85\x86\x87\x88\x89".split("")),
    fc.constantFrom(
      "K\x01",
      "h\0",
      "q\0",
      "ctorch._utils\n_rebuild_tensor_v2\n",
      "ccollections\nOrderedDict\n",
      "ctorch\nSize\n",
    ),
    fc.constantFrom(
      "ctorch\nFloatStorage\n",
      "ctorch.storage\nUntypedStorage\n",
      "ccollections\nCounter\n",
      "X\x01\0\0\0a",
    ),
  );
  const known = tensor("0", 4, pickle("K\x02K\x02\x86"), pickle("K\x01K\x02\x86"));
  await withFolder(async (folder) => {
    const path = join(folder, "random.pt");
    await fc.assert(
      fc.asyncProperty(fc.array(op, { maxLength: 40 }), fc.boolean(), async (ops, begin) => {
        writeFileSync(
          path,
          torchFile(concat(begin ? pickle(known, "q\0") : pickle(), ...ops.map((o) => pickle(o))), { 0: floats }),
        );
        try {
          await load(path);
        } catch (error) {
          assert(error instanceof CheckpointError, String((error as Error).stack));
        }
      }),
      { numRuns: 1000 },
    );
  });
});

test("load() of a truncated file is an error at every length", async () => {
  await withFolder(async (folder) => {
    for (const { ending, bytes } of (await originals(folder)).slice(0, 2)) {
      const path = join(folder, `cut${ending}`);
      for (let length = 0; length < bytes.length; length += length < 200 ? 1 : 7) {
        writeFileSync(path, bytes.subarray(0, length));
        await assertRejects(() => load(path), CheckpointError);
      }
    }
  });
});

test("load() notices a changed byte anywhere in the numbers of a .pt file", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "numbers.pt"), numbers = Float64Array.from({ length: 64 }, (_, i) => i / 7);
    await save(path, { numbers });
    const bytes = readFileSync(path), at = bytes.indexOf(new Uint8Array(numbers.buffer));
    assert(at > 0 && at % 64 === 0);
    for (let i = at; i < at + numbers.byteLength; i += 5) {
      const changed = Uint8Array.from(bytes);
      changed[i]! ^= 1;
      writeFileSync(path, changed);
      await assertRejects(() => load(path), CheckpointError, "the checksum is not right");
    }
  });
});

test("load() reads compressed records, and numbers with the high byte first", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "other.pt"), data = Uint8Array.of(0x3f, 0x80, 0, 0, 0x40, 0, 0, 0);
    writeFileSync(
      path,
      zip([
        {
          name: "a/data.pkl",
          data: pickle("\x80\x02", tensor("0", 2, pickle("K\x02\x85"), pickle("K\x01\x85")), "."),
          deflate: true,
        },
        { name: "a/byteorder", data: pickle("big"), deflate: true },
        { name: "a/data/0", data, deflate: true },
      ]),
    );
    assertEquals(await load(path), { dtype: "float32", shape: [2], data: Float32Array.of(1, 2) });
  });
});

test("load() gives views of one storage, which it reads once", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "views.pt");
    const one = tensor("0", 4, pickle("K\x04\x85"), pickle("K\x01\x85"));
    const turned = tensor("0", 4, pickle("K\x02K\x02\x86"), pickle("K\x01K\x02\x86"));
    writeFileSync(path, torchFile(pickle("](", one, one, turned, "e"), { 0: floats }));
    const [a, b, c] = await load(path);
    assertEquals([...a.data], [1, 2, 3, 4]);
    assertEquals(a.data.buffer, b.data.buffer);
    assertEquals(c, { dtype: "float32", shape: [2, 2], data: Float32Array.of(1, 3, 2, 4) });
  });
});
