// SPDX-License-Identifier: Apache-2.0
// An inpainting network in an ONNX file, run by onnxruntime-web. Errors are sentences for the page.

const RUNTIME = new URL("onnxruntime/", import.meta.url);
const MOST_THREADS = 4; // the rest of the device is for others

/** Return {threads, reason}: how many threads this browser gives the page, and why one only. */
export function threads() {
  if (!globalThis.crossOriginIsolated || typeof SharedArrayBuffer === "undefined") {
    return {
      threads: 1,
      reason: "one thread, since the server sends no headers for cross-origin isolation "
        + "(serve.py does) or the browser has no threads",
    };
  }
  const count = Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS);
  return { threads: count, reason: count === 1 ? "one thread, since the device has one" : "" };
}

/** Throw an Error that tells what the browser lacks, if it cannot run the network. */
export function checkBrowser() {
  if (typeof WebAssembly === "undefined") {
    throw new Error("This browser has no WebAssembly, or it is switched off: no hole can be "
      + "filled here. Any current Chrome, Edge, Firefox or Safari has it.");
  }
  if (!WebAssembly.validate(simdProgram())) {
    throw new Error("This browser's WebAssembly has no SIMD instructions, which the runtime "
      + "needs. Chrome and Edge have them from version 91 on, Firefox 89, Safari 16.4.");
  }
}

function simdProgram() {
  // (module (func (result v128) (v128.const i64x2 0 0)))
  const header = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
  const types = [1, 5, 1, 0x60, 0, 1, 0x7b];
  const functions = [3, 2, 1, 0];
  const code = [10, 22, 1, 20, 0, 0xfd, 12, ...new Array(16).fill(0), 11];
  return new Uint8Array([...header, ...types, ...functions, ...code]);
}

/** Load an ONNX file: returns {size, bytes, threads, reason, run}, where `run` fills a square. */
export async function loadNetwork(url) {
  checkBrowser();
  const [ort, file] = await Promise.all([loadRuntime(), loadFile(url)]);
  const available = threads();
  ort.env.wasm.wasmPaths = RUNTIME.href;
  ort.env.wasm.numThreads = available.threads;
  ort.env.wasm.proxy = true; // in a worker: the page stays alive while it computes
  const bytes = file.byteLength;
  const session = await startSession(ort, file, url);
  const size = squareSize(session, url);
  const tensor = (values, ...shape) =>
    new ort.Tensor("uint8", values.slice(), [1, ...shape]); // a copy: the runtime takes it away
  const run = async (image, mask) => {
    const results = await session.run(
      { image: tensor(image, size, size, 3), mask: tensor(mask, size, size) });
    return results[session.outputNames[0]].data;
  };
  return { size, bytes, ...available, run };
}

async function loadRuntime() {
  try {
    return await import(new URL("ort.wasm.min.mjs", RUNTIME).href);
  } catch (error) {
    throw new Error("The files of onnxruntime-web are missing beside this page: run “npm ci” in "
      + "its folder.", { cause: error });
  }
}

async function loadFile(url) {
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new Error(`The network “${url}” could not be loaded: the server does not answer.`,
      { cause: error });
  }
  if (!response.ok) {
    throw new Error(`The network “${url}” could not be loaded: the server answers `
      + `${response.status} ${response.statusText}.`);
  }
  return response.arrayBuffer();
}

async function startSession(ort, file, url) {
  try {
    return await ort.InferenceSession.create(new Uint8Array(file));
  } catch (error) {
    throw new Error(`The network “${url}” could not be started: ${error.message ?? error}`,
      { cause: error });
  }
}

function squareSize(session, url) {
  const described = (all) => all.map(({ name, type, shape }) => `${name} ${type} [${shape}]`);
  const [inputs, outputs] = [session.inputMetadata, session.outputMetadata].map(described);
  const size = session.inputMetadata[0].shape?.[1];
  const expected = `image uint8 [1,${size},${size},3], mask uint8 [1,${size},${size}]`;
  if (inputs.join(", ") !== expected || !outputs[0].endsWith(`float32 [1,${size},${size},3]`)) {
    throw new Error(`The network “${url}” takes ${inputs.join(", ")} and gives `
      + `${outputs.join(", ")}; this page needs image uint8 [1,N,N,3], mask uint8 [1,N,N] and `
      + "gives back float32 [1,N,N,3].");
  }
  return size;
}
