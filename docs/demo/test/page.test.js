// SPDX-License-Identifier: Apache-2.0
// The page in headless Chromium: filling by mouse, keys and touch, and what goes wrong.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { crc32, deflateSync } from "node:zlib";

import { choose, finished, paint, pixelsOf, pressFill, serve, startBrowser } from "./browser.js";

const reference = (name) => readFileSync(new URL(`reference/${name}.png`, import.meta.url));
const IMAGE = { name: "wall.png", mimeType: "image/png", buffer: reference("image") };

let browser, isolated, plain;
const outside = []; // requests to other hosts
const PATIENCE = 120_000; // ms; a machine may be busy

before(async () => {
  [browser, isolated, plain] = await Promise.all(
    [startBrowser(), serve(), serve({ isolated: false })]);
});

after(async () => {
  await browser?.close();
  isolated?.close();
  plain?.close();
});

/** A test with a page of its own; `script` runs in it before the page's own. */
function onPage(name, { server = () => isolated, query = "", script, options }, body) {
  test(name, { timeout: 2 * PATIENCE }, async () => {
    const context = await browser.newContext(options);
    try {
      context.setDefaultTimeout(PATIENCE);
      const page = await context.newPage();
      page.on("request", (request) => {
        const url = new URL(request.url());
        if (/^(http|ws)/.test(url.protocol) && url.hostname !== "127.0.0.1") outside.push(url.href);
      });
      if (script) await page.addInitScript(script);
      await page.goto(server().url + query);
      await body(page);
    } finally {
      await context.close();
    }
  });
}

async function savedPixels(page) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save")]);
  assert.equal(download.suggestedFilename(), "wall-filled.png");
  return pixelsOf(page, readFileSync(await download.path()));
}

async function shownPixels(page) {
  return Uint8Array.from(await page.evaluate(() => {
    const { width, height } = document.querySelector("#picture");
    const context = document.querySelector("#picture").getContext("2d");
    return Array.from(context.getImageData(0, 0, width, height).data);
  }));
}

/** Check that pixels farther than `radius` from a line are equal, and some nearer ones are not. */
function checkChangedAlong(from, to, radius, given, result) {
  assert.deepEqual([result.width, result.height], [given.width, given.height]);
  let changed = 0;
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  for (let at = 0; at < given.width * given.height; at++) {
    const [x, y] = [at % given.width + 0.5 - from[0], Math.floor(at / given.width) + 0.5 - from[1]];
    const t = Math.max(0, Math.min((x * dx + y * dy) / (dx * dx + dy * dy || 1), 1));
    const distance = Math.hypot(x - t * dx, y - t * dy);
    for (let i = 4 * at; i < 4 * at + 4; i++) {
      if (distance > radius + 1) assert.equal(result.pixels[i], given.pixels[i]);
      else if (distance < radius - 1) changed += result.pixels[i] !== given.pixels[i];
    }
  }
  assert.ok(changed > 0.5 * radius * radius, `${changed} values of the hole have changed`);
}

async function fails(page, pattern) {
  await page.waitForSelector("#error:not([hidden])");
  assert.match(await page.locator("#error").textContent(), pattern);
}

onPage("a painted line is filled with threads, the rest stays as it is, and is saved", {},
  async (page) => {
    await choose(page, IMAGE);
    await paint(page, [0.3, 0.4], [0.6, 0.5]);
    assert.match(await pressFill(page), /by \d threads\. At full .* 256 × 256 .* by mirroring/);
    const given = await pixelsOf(page, IMAGE.buffer);
    const { width, height } = given;
    const radius = Math.round(Math.max(width, height) / 16) / 2;
    const line = [[0.3 * width, 0.4 * height], [0.6 * width, 0.5 * height]];
    checkChangedAlong(...line, radius, given, await savedPixels(page));
    await page.click("#undo");
    assert.equal(await page.locator("#save").isDisabled(), true);
    assert.deepEqual(await shownPixels(page), given.pixels);
  });

onPage("the result is that of the library in JAX, to one of 255 steps", {}, async (page) => {
  const files = Object.fromEntries(["image", "mask", "filled"].map((name) =>
    [name, reference(name).toString("base64")]));
  const { worst, holes } = await page.evaluate(async (files) => {
    const { decode } = await import("/pictures.js");
    const { loadNetwork } = await import("/network.js");
    const { fill } = await import("/fill.js");
    const [image, mask, expected] = await Promise.all(["image", "mask", "filled"].map((name) =>
      decode(new Blob([Uint8Array.from(atob(files[name]), (c) => c.charCodeAt(0))]), name)));
    const missing = Uint8Array.from({ length: image.width * image.height }, (_, i) =>
      Number(mask.pixels[4 * i] > 0));
    const { size, run } = await loadNetwork("lama.onnx");
    const { pixels } = await fill(image, missing, size, run);
    const worst = pixels.reduce((most, value, i) =>
      Math.max(most, Math.abs(value - expected.pixels[i])), 0);
    return { worst, holes: missing.reduce((sum, one) => sum + one) };
  }, files);
  assert.ok(holes > 1000);
  assert.ok(worst <= 1, `differs by ${worst}`);
});

onPage("keys alone paint, undo and fill, without threads", { server: () => plain }, async (page) => {
  await choose(page, IMAGE);
  await page.focus("#paint");
  for (const key of ["ArrowUp", "Shift+ArrowLeft", "]", "["]) await page.keyboard.press(key);
  await page.keyboard.down(" ");
  for (let i = 0; i < 5; i++) await page.keyboard.press("ArrowRight");
  await page.keyboard.up(" ");
  await page.keyboard.press(" ");
  await page.keyboard.press("Control+z");
  await page.focus("#fill");
  await page.keyboard.press("Enter");
  assert.match(await finished(page), /by one thread/);
  assert.match(await page.locator("#engine").textContent(), /one thread, since the server sends no/);
  await page.keyboard.press("Control+z");
  await page.keyboard.press("Control+z");
  assert.equal(await page.locator("#undo").isDisabled(), true);
});

onPage("a finger paints", { options: { hasTouch: true, viewport: { width: 390, height: 800 } } },
  async (page) => {
    await choose(page, IMAGE);
    await page.tap("#paint");
    await page.tap("#fill");
    await finished(page);
    const given = await pixelsOf(page, IMAGE.buffer);
    const middle = [given.width / 2, given.height / 2];
    const radius = Math.round(Math.max(given.width, given.height) / 16) / 2;
    checkChangedAlong(middle, middle, radius + 1, given, await savedPixels(page));
  });

onPage("the example opens, a stroke can be cleared and the clearing undone", {}, async (page) => {
  await page.click("#example");
  await page.waitForSelector("#editor:not([hidden])");
  await fillNothing(page);
  await paint(page, [0.2, 0.2], [0.4, 0.2]);
  await page.click("#clear");
  await fillNothing(page);
  await page.click("#undo");
  await pressFill(page);
});

async function fillNothing(page) {
  await assert.rejects(pressFill(page), /Nothing is marked/);
}

for (const [type, field] of [["drop", "dataTransfer"], ["paste", "clipboardData"]]) {
  onPage(`a ${type} opens a picture`, {}, async (page) => {
    await page.evaluate(async ([type, field]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([await (await fetch("example.jpg")).blob()], "wall.jpg"));
      const Event = { drop: DragEvent, paste: ClipboardEvent }[type];
      document.body.dispatchEvent(new Event(type, { [field]: transfer, bubbles: true }));
    }, [type, field]);
    await page.waitForSelector("#editor:not([hidden])");
  });
}

onPage("opened from a file: said that it needs a server", {}, async (page) => {
  await page.goto(new URL("../index.html", import.meta.url).href);
  await fails(page, /has not started\. Open it through a web server/);
});

onPage("no WebAssembly: said at once", { script: () => { delete globalThis.WebAssembly; } },
  (page) => fails(page, /has no WebAssembly/));

onPage("no SIMD: said at once", { script: () => { WebAssembly.validate = () => false; } },
  (page) => fails(page, /no SIMD/));

onPage("no model file", { query: "?model=nothing.onnx" }, async (page) => {
  await choose(page, IMAGE);
  await fails(page, /“nothing\.onnx” could not be loaded: the server answers 404/);
  await paint(page, [0.3, 0.4], [0.6, 0.5]);
  await assert.rejects(pressFill(page), /“nothing\.onnx” could not be loaded/);
});

onPage("a model file that is none", { query: "?model=demo.css" }, async (page) => {
  await choose(page, IMAGE);
  await fails(page, /“demo\.css” could not be started/);
});

onPage("no runtime", {}, async (page) => {
  await page.route("**/onnxruntime/**", (route) => route.abort());
  await choose(page, IMAGE);
  await fails(page, /onnxruntime-web are missing.*npm ci/);
});

onPage("no picture: said, and the one before stays", {}, async (page) => {
  const text = { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("no picture") };
  await choose(page, text);
  await fails(page, /“notes\.txt” is no picture/);
  await choose(page, IMAGE);
  await choose(page, { ...text, name: "empty.png", buffer: Buffer.alloc(0) });
  await fails(page, /“empty\.png” is no picture/);
  await paint(page, [0.3, 0.4], [0.6, 0.5]);
  await pressFill(page);
});

onPage("a picture that is too large", {}, async (page) => {
  await choose(page, { name: "wide.png", mimeType: "image/png", buffer: blackPng(6000, 3000) });
  await fails(page, /6000 × 3000 pixels, 18\.0 million; this page takes 16\.8 million at most/);
});

function blackPng(width, height) {
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const ends = [Buffer.alloc(4), Buffer.alloc(4)];
    ends[0].writeUInt32BE(data.length);
    ends[1].writeUInt32BE(crc32(body));
    return Buffer.concat([ends[0], body, ends[1]]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header[8] = 1; // bits a pixel, grey
  const rows = Buffer.alloc(height * (Math.ceil(width / 8) + 1));
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]);
  return Buffer.concat([signature, chunk("IHDR", header), chunk("IDAT", deflateSync(rows)),
    chunk("IEND", Buffer.alloc(0))]);
}

test("nothing was asked of another host", () => assert.deepEqual(outside, []));
