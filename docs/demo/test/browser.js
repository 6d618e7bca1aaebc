// SPDX-License-Identifier: Apache-2.0
// A headless Chromium and the page's servers, for tests and measurements.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const FOLDER = fileURLToPath(new URL("..", import.meta.url));
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const ALONE = ["--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-gpu", "--no-sandbox"];

export async function startBrowser() {
  if (!existsSync(CHROMIUM)) {
    throw new Error(`${CHROMIUM} is missing: apt-get install chromium, or set CHROMIUM to a browser`);
  }
  return chromium.launch({ executablePath: CHROMIUM, args: ALONE });
}

/** Serve the page with the headers that give it threads, or without: returns {url, close}. */
export async function serve({ isolated = true } = {}) {
  const words = isolated ? ["serve.py", "--port", "0"]
    : ["-m", "http.server", "0", "--bind", "127.0.0.1"];
  const server = spawn("python3", ["-u", ...words], { cwd: FOLDER, stdio: ["ignore", "pipe", "ignore"] });
  const url = await new Promise((resolve, reject) => {
    let text = "";
    server.stdout.on("data", (data) => {
      text += data;
      const found = text.match(/http:\/\/127\.0\.0\.1:\d+\//);
      if (found) resolve(found[0]);
    });
    server.on("exit", () => reject(new Error(`python3 ${words.join(" ")} ended: ${text}`)));
    server.on("error", reject);
  });
  return { url, close: () => server.kill() };
}

/** Open a picture in the page. */
export async function choose(page, file) {
  await page.setInputFiles("#file", file);
  await page.waitForSelector("#editor:not([hidden]), #error:not([hidden])");
}

/** Paint a line between two points, given as shares of the picture's width and height. */
export async function paint(page, from, to) {
  const { x, y, width, height } = await page.locator("#paint").boundingBox();
  await page.mouse.move(x + from[0] * width, y + from[1] * height);
  await page.mouse.down();
  await page.mouse.move(x + to[0] * width, y + to[1] * height, { steps: 4 });
  await page.mouse.up();
}

/** Press Fill and wait: returns the status, or throws the page's error. */
export async function pressFill(page) {
  await page.click("#fill");
  return finished(page);
}

/** Wait until the page has filled: returns its status, or throws its error. */
export async function finished(page) {
  await page.waitForFunction(() => !document.querySelector("#error").hidden
    || document.querySelector("#status").textContent.startsWith("Filled"));
  const error = page.locator("#error");
  if (await error.isVisible()) throw new Error(await error.textContent());
  return page.locator("#status").textContent();
}

/** The pixels of a PNG file, decoded by the page's browser. */
export async function pixelsOf(page, png) {
  const { width, height, pixels } = await page.evaluate(async (base64) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const { decode } = await import("/pictures.js");
    const { width, height, pixels } = await decode(new Blob([bytes]), "file");
    return { width, height, pixels: Array.from(pixels) };
  }, png.toString("base64"));
  return { width, height, pixels: Uint8Array.from(pixels) };
}
