// SPDX-License-Identifier: Apache-2.0
// Times of the page in Chromium, and pictures of it.
// Run: npm run measure [FOLDER]    (where the pictures go)

import { paint, pressFill, serve, startBrowser } from "./browser.js";

const REPEATS = 15;
const WINDOWS = {
  wide: { viewport: { width: 1280, height: 860 } },
  narrow: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, colorScheme: "dark" },
};
const LINES = [[[0.58, 0.25], [0.68, 0.4]], [[0.85, 0.6], [0.72, 0.78]]];

/** Load the network and fill a hole of 96 x 96 pixels in a picture of 256 x 256. */
async function timesIn(page) {
  return page.evaluate(async (repeats) => {
    const { loadNetwork } = await import("/network.js");
    const { fill } = await import("/fill.js");
    const side = 256;
    const pixels = Uint8ClampedArray.from({ length: 4 * side * side }, (_, i) => (i * 7) % 251);
    const mask = Uint8Array.from({ length: side * side }, (_, i) =>
      Number(Math.abs(i % side - 128) < 48 && Math.abs(i / side - 128) < 48));
    const timed = async (body) => {
      const begun = performance.now();
      const result = await body();
      return [result, performance.now() - begun];
    };
    const [network, load] = await timed(() => loadNetwork("lama.onnx"));
    const once = async () => (await timed(() =>
      fill({ pixels, width: side, height: side }, mask, network.size, network.run)))[1];
    const first = await once();
    const times = [];
    for (let i = 0; i < repeats; i++) times.push(await once());
    times.sort((a, b) => a - b);
    return { threads: network.threads, load, first, median: times[repeats >> 1], least: times[0] };
  }, REPEATS);
}

const browser = await startBrowser();
console.log(`Chromium ${browser.version()}, a hole in 256 x 256 pixels, ms`);
console.log("| threads | load | first | median | least |\n| --- | ---: | ---: | ---: | ---: |");
for (const isolated of [false, true]) {
  const server = await serve({ isolated });
  const page = await browser.newPage();
  await page.goto(server.url);
  const { threads, ...times } = await timesIn(page);
  console.log(`| ${[threads, ...Object.values(times).map(Math.round)].join(" | ")} |`);
  await page.close();
  server.close();
}

const folder = process.argv[2];
if (folder) {
  const server = await serve();
  for (const [name, options] of Object.entries(WINDOWS)) {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    const picture = (state, more = {}) => page.screenshot(
      { path: `${folder}/demo_${name}_${state}.jpg`, type: "jpeg", quality: 75, ...more });
    await page.goto(server.url);
    await picture("opened");
    await page.click("#example");
    await page.waitForSelector("#editor:not([hidden])");
    for (const [from, to] of LINES) await paint(page, from, to);
    await picture("painted");
    await pressFill(page);
    await picture("filled");
    await page.click("summary");
    await picture("explained", { fullPage: true });
    await context.close();
  }
  server.close();
}
await browser.close();
