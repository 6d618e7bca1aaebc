// SPDX-License-Identifier: Apache-2.0
// The page: choose a picture, paint over a part of it, fill that in, save the result.

import { describe, fill } from "./fill.js";
import { checkBrowser, loadNetwork } from "./network.js";
import { Painting } from "./painting.js";
import { decode, encode } from "./pictures.js";

const MODEL = new URLSearchParams(location.search).get("model") ?? "lama.onnx";
const EXAMPLE = "example.jpg";

const page = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const painting = new Painting(page.paint);
let picture = null; // {pixels, original, fillings, width, height, name}
let history = []; // functions, each of which takes back one step
let network = null; // promise of the loaded network
let busy = false;

function tell(text) {
  page.error.hidden = true;
  page.status.textContent = text;
}

function fail(error) {
  console.error(error);
  page.status.textContent = "";
  page.error.textContent = error.message;
  page.error.hidden = false;
}

/** Run a step that a user asked for, one at a time; what goes wrong is shown. */
async function step(action) {
  if (busy) return;
  busy = true;
  refresh();
  try {
    await action();
  } catch (error) {
    fail(error);
  } finally {
    busy = false;
    refresh();
  }
}

function refresh() {
  page.undo.disabled = busy || history.length === 0;
  page.clear.disabled = busy || painting.strokes.length === 0;
  page.fill.disabled = busy;
  page.save.disabled = page.compare.disabled = busy || !picture?.fillings;
  page.editor.setAttribute("aria-busy", String(busy));
}

// Pictures

const open = (blob, name) => step(async () => {
  tell("Opening the picture …");
  const { pixels, width, height, notes } = await decode(blob, name);
  picture = { pixels, original: pixels, fillings: 0, width, height, name };
  history = [];
  page.start.hidden = true;
  page.editor.hidden = false;
  Object.assign(page.picture, { width, height });
  page.stage.style.setProperty("--width", width);
  page.stage.style.setProperty("--height", height);
  painting.resize(width, height);
  moveTo([width / 2, height / 2]);
  page.brush.max = Math.max(16, Math.round(Math.max(width, height) / 4));
  setBrush(Math.round(Math.max(width, height) / 16));
  compare(false);
  tell(["Paint over what should go, then press Fill.", ...notes].join(" "));
  startNetwork().catch(fail);
});

function startNetwork() {
  network ??= loadNetwork(MODEL).then((loaded) => {
    const { size, bytes, threads, reason } = loaded;
    page.engine.textContent = `${MODEL}: ${(bytes / 2 ** 20).toFixed(1)} MiB, squares of ${size} × `
      + `${size} pixels, ${reason || `${threads} threads`}.`;
    return loaded;
  }).catch((error) => {
    network = null; // the next try loads it anew
    throw error;
  });
  return network;
}

async function openExample() {
  try {
    const response = await fetch(EXAMPLE);
    if (!response.ok) throw new Error(`${response.status}`);
    await open(await response.blob(), EXAMPLE);
  } catch (error) {
    fail(new Error("The example could not be loaded from the server.", { cause: error }));
  }
}

function openFrom(transfer) {
  const file = transfer?.files[0];
  if (file) open(file, file.name);
}

// Steps

const fillIn = () => step(async () => {
  painting.cancel();
  const mask = painting.mask();
  if (!mask.includes(1)) {
    throw new Error("Nothing is marked: paint over what should go, then press Fill.");
  }
  tell("Loading the network …");
  const { size, run, threads } = await startNetwork();
  tell("Filling …");
  const begun = performance.now();
  const { pixels, squares } = await fill(picture, mask, size, run, (done, holes) =>
    tell(holes > 1 ? `Filling: ${done} of ${holes} holes done …` : "Filling …"));
  const seconds = (performance.now() - begun) / 1000;
  const { strokes } = painting;
  const putBack = pixelsToPutBack(mask);
  history.push(() => {
    putBack();
    picture.fillings--;
    painting.replace(strokes);
    compare(false);
  });
  picture.pixels = pixels;
  picture.fillings++;
  painting.replace([]);
  compare(false);
  tell(`Filled in ${seconds.toFixed(2)} s by ${threads === 1 ? "one thread" : `${threads} threads`}. `
    + describe(squares, size, picture));
});

/** Keep the pixels of a mask, no more than these, and return a function that puts them back. */
function pixelsToPutBack(mask) {
  const wholes = () => new Uint32Array(picture.pixels.buffer);
  const places = new Uint32Array(mask.reduce((count, one) => count + one, 0));
  let count = 0;
  mask.forEach((one, at) => { if (one) places[count++] = at; });
  const now = wholes();
  const kept = places.map((at) => now[at]);
  return () => {
    const pixels = wholes();
    places.forEach((at, i) => { pixels[at] = kept[i]; });
  };
}

function undo() {
  if (busy || !history.length) return;
  history.pop()();
  tell("Taken back.");
  refresh();
}

function clear() {
  const { strokes } = painting;
  history.push(() => painting.replace(strokes));
  painting.replace([]);
  tell("Cleared.");
  refresh();
}

const save = () => step(async () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await encode(picture));
  link.download = `${picture.name.replace(/\.[^.]*$/, "")}-filled.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  tell(`Saved as ${link.download}.`);
});

/** Show the picture as it is now, or the one that was opened. */
function compare(original) {
  page.compare.setAttribute("aria-pressed", String(original));
  page.paint.classList.toggle("unseen-strokes", original);
  const pixels = original ? picture.original : picture.pixels;
  const image = new ImageData(pixels, picture.width, picture.height);
  page.picture.getContext("2d").putImageData(image, 0, 0);
}

// Painting

let brushAt = [0, 0];

function moveTo([x, y]) {
  brushAt = [x, y];
  page.cursor.style.left = `${100 * x / picture.width}%`;
  page.cursor.style.top = `${100 * y / picture.height}%`;
  painting.move(brushAt);
}

function setBrush(size) {
  page.brush.value = size;
  page["brush-size"].textContent = `${page.brush.value} px`;
  if (picture) page.cursor.style.width = `${100 * page.brush.value / picture.width}%`;
}

function beginStroke() {
  if (busy) return;
  compare(false);
  painting.begin(brushAt, page.brush.valueAsNumber / 2);
}

function endStroke() {
  if (!painting.end()) return;
  const earlier = painting.strokes.slice(0, -1);
  history.push(() => painting.replace(earlier));
  page.error.hidden = true;
  refresh();
}

function pointerPlace(event) {
  const { left, top, width, height } = page.paint.getBoundingClientRect();
  return [(event.clientX - left) * picture.width / width,
    (event.clientY - top) * picture.height / height];
}

page.paint.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.isPrimary) return;
  page.paint.setPointerCapture(event.pointerId);
  moveTo(pointerPlace(event));
  beginStroke();
});
page.paint.addEventListener("pointermove", (event) => {
  if (!event.isPrimary) return;
  page.cursor.hidden = event.pointerType === "touch";
  for (const each of event.getCoalescedEvents?.() ?? []) moveTo(pointerPlace(each));
  moveTo(pointerPlace(event));
});
page.paint.addEventListener("pointerup", (event) => { if (event.isPrimary) endStroke(); });
page.paint.addEventListener("pointercancel", () => painting.cancel());
page.paint.addEventListener("pointerleave", () => { page.cursor.hidden = true; });
page.paint.addEventListener("focus", () => {
  page.cursor.hidden = !page.paint.matches(":focus-visible");
});
page.paint.addEventListener("blur", () => {
  endStroke(); // the key that is held will not be seen to rise
  page.cursor.hidden = true;
});

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

page.paint.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const size = page.brush.valueAsNumber;
  const arrow = ARROWS[event.key];
  if (arrow) {
    const length = event.shiftKey ? 1 : Math.max(1, Math.round(size / 4));
    const ends = [picture.width, picture.height];
    moveTo(brushAt.map((n, i) => Math.max(0, Math.min(n + length * arrow[i], ends[i]))));
    page.cursor.hidden = false;
  } else if (event.key === " ") {
    if (!event.repeat) beginStroke();
  } else if (event.key === "[" || event.key === "]") {
    setBrush(Math.round(event.key === "]" ? Math.max(size + 1, size * 1.2) : size / 1.2));
  } else if (event.key === "Escape") {
    painting.cancel();
  } else {
    return;
  }
  event.preventDefault();
});
page.paint.addEventListener("keyup", (event) => { if (event.key === " ") endStroke(); });

document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key === "z") {
    event.preventDefault();
    undo();
  }
});

// The rest of the page

page.brush.addEventListener("input", () => setBrush(page.brush.value));
page.undo.addEventListener("click", undo);
page.clear.addEventListener("click", clear);
page.fill.addEventListener("click", fillIn);
page.save.addEventListener("click", save);
page.compare.addEventListener("click", () =>
  compare(page.compare.getAttribute("aria-pressed") !== "true"));
page.example.addEventListener("click", openExample);
page.file.addEventListener("change", () => {
  openFrom(page.file);
  page.file.value = ""; // the same file may be chosen again
});
document.addEventListener("paste", (event) => openFrom(event.clipboardData));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragged");
});
for (const type of ["dragleave", "drop"]) {
  document.addEventListener(type, () => document.body.classList.remove("dragged"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  openFrom(event.dataTransfer);
});

page.start.hidden = false;
tell("");
refresh();
try {
  checkBrowser();
} catch (error) {
  fail(error);
}
