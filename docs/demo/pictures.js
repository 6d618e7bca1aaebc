// SPDX-License-Identifier: Apache-2.0
// Picture files to pixels and back. Errors are sentences for the page.

const MOST_PIXELS = 4096 * 4096; // of a canvas on phones

/** Decode a picture: returns {pixels, width, height, notes}, upright and opaque. */
export async function decode(blob, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch (error) {
    throw new Error(`“${name}” is no picture that this browser can read.`, { cause: error });
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    bitmap.close();
    throw new Error(`“${name}” has ${width} × ${height} pixels, `
      + `${(width * height / 1e6).toFixed(1)} million; this page takes `
      + `${(MOST_PIXELS / 1e6).toFixed(1)} million at most. Make it smaller first.`);
  }
  const context = newContext(width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  let { data } = context.getImageData(0, 0, width, height);
  const notes = [];
  if (!isOpaque(data)) {
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    ({ data } = context.getImageData(0, 0, width, height));
    notes.push("Its transparent parts lie on white now.");
  }
  if (!readsExactly()) {
    notes.push("This browser changes the pixels that a page reads, against tracking: what is saved "
      + "differs a little from the picture outside of the holes, too.");
  }
  return { pixels: data, width, height, notes };
}

/** Encode pixels as a PNG file. */
export function encode({ pixels, width, height }) {
  const context = newContext(width, height);
  context.putImageData(new ImageData(pixels, width, height), 0, 0);
  return new Promise((resolve, reject) => context.canvas.toBlob((blob) =>
    blob ? resolve(blob) : reject(new Error("The browser could not write the PNG file."))));
}

function isOpaque(data) {
  for (let i = 3; i < data.length; i += 4) if (data[i] < 255) return false;
  return true;
}

/** Whether pixels come back from a canvas as they were put there. */
function readsExactly() {
  const side = 16;
  const context = newContext(side, side);
  const put = Uint8ClampedArray.from({ length: side * side * 4 }, (_, i) =>
    i % 4 === 3 ? 255 : (i * 37) % 256);
  context.putImageData(new ImageData(put, side, side), 0, 0);
  const { data } = context.getImageData(0, 0, side, side);
  return put.every((value, i) => value === data[i]);
}

function newContext(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return canvas.getContext("2d", { willReadFrequently: true });
}
