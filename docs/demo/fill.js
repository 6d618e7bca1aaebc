// SPDX-License-Identifier: Apache-2.0
// Filling the holes of a picture by a network that takes squares of one size.
//
// Pictures are Uint8ClampedArray [height * width * 4] (RGBA), masks Uint8Array [height * width], 1
// where the picture is missing. Nothing here knows the page or the runtime.

/**
 * Fill the holes of a picture: returns new pixels and the squares that the network saw.
 *
 * Each hole is filled from a square around it. A square of the network's size is taken as it is, a
 * larger one, for a larger hole, is scaled down and the result up again; a picture that is smaller
 * than the square is continued by mirroring. Holes that lie in one square are filled at once. Known
 * pixels are not touched.
 *
 * @param {{pixels: Uint8ClampedArray, width: number, height: number}} picture
 * @param {Uint8Array} mask
 * @param {number} size side of the network's squares
 * @param {(image: Uint8Array, mask: Uint8Array) => Promise<Float32Array>} network from a square,
 *   [size * size * 3] and [size * size], to the filled one, [size * size * 3] from 0 to 255
 * @param {(done: number, holes: number) => void} progress told before each square
 */
export async function fill(picture, mask, size, network, progress = () => {}) {
  const { width, height } = picture;
  const pixels = new Uint8ClampedArray(picture.pixels);
  const missing = new Uint8Array(mask);
  const { labels, boxes } = holesOf(mask, width, height);
  const filled = new Set();
  const squares = [];
  for (const [i, box] of boxes.entries()) {
    if (filled.has(i)) continue;
    progress(filled.size, boxes.length);
    const square = squareAround(box, width, height, size);
    const given = networkInput({ pixels, width, height }, missing, square, size);
    const values = await network(given.image, given.mask);
    const inside = boxes.flatMap((other, j) =>
      !filled.has(j) && contains(square, other) ? [j] : []);
    for (const j of inside) {
      paste(pixels, width, boxes[j], (at) => labels[at] === j + 1, values, square, size);
      forEachIn(boxes[j], width, (at) => { if (labels[at] === j + 1) missing[at] = 0; });
      filled.add(j);
    }
    squares.push(square);
  }
  return { pixels, squares };
}

/** Label the connected holes of a mask from 1 and return their boxes; corners connect. */
export function holesOf(mask, width, height) {
  const labels = new Int32Array(mask.length);
  const boxes = [];
  const stack = [];
  const visit = (at) => {
    if (mask[at] && !labels[at]) {
      labels[at] = boxes.length;
      stack.push(at);
    }
  };
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || labels[start]) continue;
    const box = { left: width, top: height, right: 0, bottom: 0 };
    boxes.push(box);
    visit(start);
    while (stack.length) {
      const at = stack.pop();
      const x = at % width, y = (at - x) / width;
      box.left = Math.min(box.left, x);
      box.right = Math.max(box.right, x + 1);
      box.top = Math.min(box.top, y);
      box.bottom = Math.max(box.bottom, y + 1);
      for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
        for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
          visit(v * width + u);
        }
      }
    }
  }
  return { labels, boxes };
}

/**
 * Return the square {left, top, side} from which a hole is filled: of the network's size, or twice
 * as long as a larger hole where the picture is that large. It leaves the picture, to the right and
 * below, only if it is larger.
 */
export function squareAround(box, width, height, size) {
  const hole = Math.max(box.right - box.left, box.bottom - box.top);
  const side = Math.max(size, Math.min(2 * hole, Math.max(width, height)));
  const start = (from, to, length) =>
    Math.max(0, Math.min(Math.round((from + to - side) / 2), length - side));
  return { left: start(box.left, box.right, width), top: start(box.top, box.bottom, height), side };
}

/**
 * Return what the network sees of a square: {image: [size * size * 3], mask: [size * size]}. Where
 * it is scaled down, a pixel is the average of those it covers, and missing as soon as one is.
 */
export function networkInput({ pixels, width, height }, missing, square, size) {
  const columns = coverage(square.left, square.side, width, size);
  const rows = coverage(square.top, square.side, height, size);
  const image = new Uint8Array(size * size * 3);
  const mask = new Uint8Array(size * size);
  for (let y = 0, out = 0; y < size; y++) {
    for (let x = 0; x < size; x++, out++) {
      let red = 0, green = 0, blue = 0, total = 0;
      for (const [v, share] of rows[y]) {
        for (const [u, part] of columns[x]) {
          const at = v * width + u;
          const weight = share * part;
          mask[out] |= missing[at];
          red += weight * pixels[4 * at];
          green += weight * pixels[4 * at + 1];
          blue += weight * pixels[4 * at + 2];
          total += weight;
        }
      }
      if (mask[out]) continue;
      image.set([red, green, blue].map((sum) => Math.round(sum / total)), 3 * out);
    }
  }
  return { image, mask };
}

/** For each of `size` cells of a side: the pixels [index, share] that it covers, mirrored. */
function coverage(start, side, length, size) {
  const scale = side / size;
  return Array.from({ length: size }, (_, i) => {
    const from = i * scale, to = (i + 1) * scale;
    const cells = [];
    for (let n = Math.floor(from); n < to; n++) {
      const share = Math.min(n + 1, to) - Math.max(n, from);
      if (share > 1e-9) cells.push([mirrored(start + n, length), share]);
    }
    return cells;
  });
}

/** Continue indices of 0 to length - 1 by mirroring at the ends: 0 1 2 2 1 0 0 1 … */
export function mirrored(index, length) {
  const n = index % (2 * length);
  return n < length ? n : 2 * length - 1 - n;
}

/** Write a square's values into the pixels of a box that `missing` selects, bilinearly. */
function paste(pixels, width, box, missing, values, square, size) {
  const scale = size / square.side;
  const place = (n, start) => {
    const at = Math.max(0, Math.min((n - start + 0.5) * scale - 0.5, size - 1));
    const low = Math.floor(at);
    return [low, Math.min(low + 1, size - 1), at - low];
  };
  forEachIn(box, width, (at, x, y) => {
    if (!missing(at)) return;
    const [left, right, h] = place(x, square.left);
    const [above, below, v] = place(y, square.top);
    for (let c = 0; c < 3; c++) {
      const value = (row, column) => values[3 * (row * size + column) + c];
      const upper = (1 - h) * value(above, left) + h * value(above, right);
      const lower = (1 - h) * value(below, left) + h * value(below, right);
      pixels[4 * at + c] = (1 - v) * upper + v * lower; // rounded and clamped by the array
    }
    pixels[4 * at + 3] = 255;
  });
}

function forEachIn(box, width, visit) {
  for (let y = box.top; y < box.bottom; y++) {
    for (let x = box.left; x < box.right; x++) visit(y * width + x, x, y);
  }
}

function contains(square, box) {
  return box.left >= square.left && box.right <= square.left + square.side
    && box.top >= square.top && box.bottom <= square.top + square.side;
}

/** Tell in a sentence or two how squares were made of a picture. */
export function describe(squares, size, { width, height }) {
  const scaled = squares.filter(({ side }) => side > size);
  const parts = [];
  if (scaled.length < squares.length) {
    const count = squares.length - scaled.length;
    parts.push(count === 1
      ? `At full resolution, from a square of ${size} × ${size} pixels.`
      : `At full resolution, from ${count} squares of ${size} × ${size} pixels.`);
  }
  const longest = Math.max(...squares.map(({ side }) => side));
  if (scaled.length > 0) {
    const from = scaled.length === 1 ? `a square of ${longest} × ${longest} pixels around a large hole`
      : `${scaled.length} squares of up to ${longest} × ${longest} pixels around large holes`;
    parts.push(`From ${from}, scaled to ${size} × ${size} and back, without fine detail.`);
  }
  if (Math.min(width, height) < longest) {
    parts.push("The picture was continued by mirroring to fit the square.");
  }
  return parts.join(" ");
}
