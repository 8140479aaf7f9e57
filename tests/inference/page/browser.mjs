// Opens a page in Chromium without a network, gives it files, and prints what it answers: node browser.mjs < TASK
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const task = JSON.parse(readFileSync(0, "utf8"));
const browser = await chromium.launch({
  executablePath: task.chromium,
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const shape = task.shape ?? { width: 1280, height: 900 };
const context = await browser.newContext({ viewport: shape, colorScheme: task.colours ?? "light", locale: "en-GB", offline: task.url === undefined });
const page = await context.newPage();
const out = { answers: [], requests: [], said: [] };
page.on("console", (message) => out.said.push(message.text()));
page.on("pageerror", (error) => out.said.push(String(error)));
const begin = Date.now();
if (task.early)
  // The model opens when the first picture has been chosen, however slow the machine is.
  await page.addInitScript(() => {
    const { instantiate } = WebAssembly;
    const chosen = new Promise((go) => (globalThis.chosen = go));
    WebAssembly.instantiate = async (...given) => (await chosen, instantiate(...given));
  });
await page.goto(task.url ?? `file://${task.page}`);
page.on("request", (request) => out.requests.push(request.url()));
const status = page.locator("#status");
out.isEarly = !(await page.locator("#file").isDisabled()) && (await status.textContent()) === "The model is being opened.";
if (!task.early) await page.waitForFunction(() => document.querySelector("#status").textContent !== "The model is being opened.", null, { timeout: 120000 });
out.opened = Date.now() - begin;
const drop = (file) =>
  page.evaluate((content) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(content), (one) => one.charCodeAt(0))], "dropped"));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }, readFileSync(file).toString("base64"));
for (const file of task.files) {
  const from = Date.now();
  if (task.drops) await drop(file);
  else await page.locator("#file").setInputFiles(file);
  if (task.early) await page.evaluate(() => globalThis.chosen());
  await page.waitForFunction(() => !document.getElementById("answer").hidden || document.querySelector("#status.fault"), null, { timeout: 120000 });
  const took = Date.now() - from;
  const fault = (await status.getAttribute("class")) === "fault" ? await status.textContent() : null;
  if (fault === null && !task.quick) await page.waitForFunction(() => !/measures/.test(document.getElementById("overlay-words").textContent), null, { timeout: 120000 });
  const mask = task.mask && (await page.evaluate(() => {
    const { width, height } = document.getElementById("overlay");
    const { data } = document.getElementById("overlay").getContext("2d").getImageData(0, 0, width, height);
    return Array.from({ length: width * height }, (_, i) => Number(data[4 * i + 3] > 0));
  })); // prettier-ignore
  out.answers.push({
    fault, took, mask,
    label: await page.locator("#label").textContent(),
    values: await page.locator("#rows data").evaluateAll((all) => all.map((one) => Number(one.value))),
    isUncertain: (await page.locator("#certain").getAttribute("class")) === "uncertain",
    findings: await page.locator("#findings li").allTextContents(),
    advice: await page.locator("#advice p").textContent(),
    looked: await page.locator("#overlay-words").textContent(),
  });
  await page.locator("#file").evaluate(() => (document.getElementById("answer").hidden = true));
  await page.evaluate(() => document.getElementById("status").classList.remove("fault"));
  if (task.shows) await page.evaluate(() => (document.getElementById("answer").hidden = false));
}
if (task.axe) {
  await page.evaluate(() => (document.getElementById("answer").hidden = false));
  await page.evaluate(readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8"));
  out.axe = (await page.evaluate(() => axe.run())).violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map(({ html }) => html) }));
}
if (task.keys) {
  out.keys = [];
  for (let i = 0; i < task.keys; i++) {
    await page.keyboard.press("Tab");
    out.keys.push(await page.evaluate(() => document.activeElement.id));
  }
}
if (task.picture) await page.screenshot({ path: task.picture, fullPage: true });
await browser.close();
console.log(JSON.stringify(out));
