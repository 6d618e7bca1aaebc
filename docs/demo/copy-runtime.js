// SPDX-License-Identifier: Apache-2.0
// Copies what the page loads of onnxruntime-web beside it. npm ci runs this.

import { copyFileSync, mkdirSync } from "node:fs";

const FILES = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];
const from = new URL("node_modules/onnxruntime-web/dist/", import.meta.url);
const to = new URL("onnxruntime/", import.meta.url);

mkdirSync(to, { recursive: true });
for (const name of FILES) copyFileSync(new URL(name, from), new URL(name, to));
