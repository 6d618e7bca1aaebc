// SPDX-License-Identifier: Apache-2.0
// Laws of filling, with networks that are a line each.

import assert from "node:assert/strict";
import { test } from "node:test";

import { describe, fill, holesOf, mirrored, networkInput, squareAround } from "../fill.js";

const SIZE = 16;

function picture(width, height, value = (x, y, c) => (x * 7 + y * 13 + c * 50) % 256) {
  const pixels = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let at = 0; at < width * height; at++) {
    for (let c = 0; c < 3; c++) pixels[4 * at + c] = value(at % width, Math.floor(at / width), c);
  }
  return { pixels, width, height };
}

function maskOf({ width, height }, ...boxes) {
  const mask = new Uint8Array(width * height);
  for (const [left, top, right, bottom] of boxes) {
    for (let y = top; y < bottom; y++) mask.fill(1, y * width + left, y * width + right);
  }
  return mask;
}

const grey = async () => new Float32Array(SIZE * SIZE * 3).fill(127.6);

for (const [width, height, ...boxes] of [
  [16, 16, [4, 4, 9, 12]],
  [40, 30, [0, 0, 3, 3], [36, 25, 40, 30]],
  [40, 30, [2, 3, 37, 28]],
  [40, 9, [5, 0, 35, 9]],
  [5, 7, [1, 2, 3, 4]],
  [1, 1, [0, 0, 1, 1]],
]) {
  test(`only holes change: ${width} x ${height}, ${JSON.stringify(boxes)}`, async () => {
    const given = picture(width, height);
    const before = given.pixels.slice();
    const mask = maskOf(given, ...boxes);
    const { pixels } = await fill(given, mask, SIZE, grey);
    assert.deepEqual(given.pixels, before);
    pixels.forEach((value, i) => {
      if (!mask[i >> 2]) assert.equal(value, before[i]);
    });
    for (const [left, top] of boxes) assert.equal(pixels[4 * (top * width + left) + 3], 255);
    if (Math.max(width, height) <= SIZE) { // not scaled: nothing of what is known enters the hole
      pixels.forEach((value, i) => {
        if (mask[i >> 2] && i % 4 < 3) assert.equal(value, 128);
      });
    }
  });
}

test("what lies under a hole has no influence", async () => {
  const one = picture(40, 30);
  const mask = maskOf(one, [3, 3, 25, 20], [30, 25, 33, 28]);
  const other = { ...one, pixels: one.pixels.map((v, i) => mask[i >> 2] && i % 4 < 3 ? 255 - v : v) };
  const echo = async (image) => Float32Array.from(image, (_, i) => image[(i + 21) % image.length]);
  const results = await Promise.all([one, other].map((each) => fill(each, mask, SIZE, echo)));
  assert.deepEqual(results[0].pixels, results[1].pixels);
});

test("a square of the network's size is the picture, 0 in the hole, and the mask", () => {
  const given = picture(20, 18);
  const hole = maskOf(given, [5, 5, 7, 7]);
  const { image, mask } = networkInput(given, hole, { left: 2, top: 1, side: SIZE }, SIZE);
  const at = 3 * SIZE + 2; // row 3, column 2: pixel (4, 4)
  assert.deepEqual([...image.slice(3 * at, 3 * at + 3)], [0, 1, 2].map((c) =>
    given.pixels[4 * (4 * 20 + 4) + c]));
  const inside = 5 * SIZE + 4; // pixel (6, 6)
  assert.deepEqual([...image.slice(3 * inside, 3 * inside + 3)], [0, 0, 0]);
  assert.deepEqual([mask[at], mask[inside]], [0, 1]);
});

test("a picture smaller than the square is continued by mirroring", () => {
  assert.deepEqual(Array.from({ length: 8 }, (_, i) => mirrored(i, 3)), [0, 1, 2, 2, 1, 0, 0, 1]);
  const given = picture(5, 16);
  const square = { left: 0, top: 0, side: SIZE };
  const { image } = networkInput(given, new Uint8Array(80), square, SIZE);
  assert.equal(image[3 * 5], image[3 * 4]);
  assert.equal(image[3 * 9], image[0]);
});

test("a large hole is filled from a scaled square, up to the ends of a smooth picture", async () => {
  const slope = (x, y, c) => 40 + 3 * x + 2 * y + 10 * c;
  const given = picture(48, 32, slope);
  const mask = maskOf(given, [10, 6, 34, 26]);
  const { pixels, squares } = await fill(given, mask, SIZE, async () => {
    return Float32Array.from({ length: SIZE * SIZE * 3 }, (_, i) => {
      const [x, y] = [Math.floor(i / 3) % SIZE, Math.floor(i / 3 / SIZE)];
      return slope(3 * x + 1, 3 * y + 1, i % 3); // centres of cells of 3 pixels
    });
  });
  assert.deepEqual(squares, [{ left: 0, top: 0, side: 48 }]);
  pixels.forEach((value, i) => assert.ok(Math.abs(value - given.pixels[i]) <= 1));
});

test("a scaled pixel is missing as soon as one that it covers is, and the rest are averages", () => {
  const given = picture(32, 32, (x) => (x % 2) * 100);
  const mask = maskOf(given, [4, 4, 5, 5]);
  const seen = networkInput(given, mask, { left: 0, top: 0, side: 32 }, SIZE);
  assert.equal(seen.mask.filter(Boolean).length, 1);
  assert.equal(seen.mask[2 * SIZE + 2], 1);
  assert.equal(seen.image[0], 50);
});

test("holes that touch at a corner are one", () => {
  const { labels, boxes } = holesOf(Uint8Array.of(1, 0, 0, 0, 1, 0, 0, 0, 0), 3, 3);
  assert.deepEqual(boxes, [{ left: 0, top: 0, right: 2, bottom: 2 }]);
  assert.equal(labels[4], 1);
});

test("holes in one square are filled at once, and far ones later, when the first is known", async () => {
  const given = picture(64, 16);
  const mask = maskOf(given, [2, 2, 4, 4], [8, 8, 12, 12], [50, 3, 55, 8], [14, 2, 18, 4]);
  const seen = [];
  const { squares } = await fill(given, mask, SIZE, (_, mask) => {
    seen.push(mask.filter(Boolean).length);
    return grey();
  });
  assert.equal(squares.length, 3);
  assert.deepEqual(seen, [24, 8, 25]); // of the fourth hole 2 columns, then all of it alone
  assert.equal(describe(squares, SIZE, given), "At full resolution, from 3 squares of 16 × 16 pixels.");
});

test("squares hold their hole, and stay in pictures that are large enough", () => {
  for (const [width, height] of [[100, 60], [17, 200], [16, 16], [9, 30], [301, 299]]) {
    for (let i = 0; i < 300; i++) {
      const [left, top] = [(i * 37) % width, (i * 71) % height];
      const box = { left, top, right: Math.min(width, left + 1 + (i * 13) % width),
        bottom: Math.min(height, top + 1 + (i * 29) % height) };
      const square = squareAround(box, width, height, SIZE);
      assert.ok(square.left >= 0 && square.left <= box.left);
      assert.ok(square.top >= 0 && square.top <= box.top);
      assert.ok(square.left + square.side >= box.right && square.top + square.side >= box.bottom);
      assert.ok(square.side >= SIZE && square.side <= Math.max(SIZE, width, height));
      assert.ok(square.side > width || square.left + square.side <= width);
      assert.ok(square.side > height || square.top + square.side <= height);
    }
  }
});
