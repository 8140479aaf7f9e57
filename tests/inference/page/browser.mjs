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
if (task.logits)
  // The rows and the logits of every run of the graph on one picture.
  await page.addInitScript(() => {
    globalThis.runs = [];
    let own;
    Object.defineProperty(globalThis, "ort", {
      get: () => own,
      set(value) {
        own = value;
        const { run } = own.InferenceSession.prototype;
        own.InferenceSession.prototype.run = async function (...given) {
          const { data, dims } = given[0].pictures;
          const rows = dims[0] === 1 && btoa(Array.from(data, (level) => String.fromCharCode(level)).join(""));
          const found = await run.apply(this, given);
          if (rows) globalThis.runs.push([rows, Array.from(found.logits.data)]);
          return found;
        };
      },
    });
  });
await page.goto(task.url ?? `file://${task.page}`);
page.on("request", (request) => out.requests.push(request.url()));
const status = page.locator("#status");
out.isEarly = !(await page.locator("#file").isDisabled()) && (await status.textContent()) === "The model is being opened.";
if (!task.early) await page.waitForFunction(() => document.querySelector("#status").textContent !== "The model is being opened.", null, { timeout: 120000 });
out.opened = Date.now() - begin;
await page.evaluate(() => {
  globalThis.dropped = (content, name = "dropped") => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(content), (one) => one.charCodeAt(0))], name));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  };
});
const contentOf = (file) => readFileSync(file).toString("base64");
const drop = (file) => page.evaluate((content) => globalThis.dropped(content), contentOf(file));
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
  const values = await page.locator("#rows data").evaluateAll((all) => all.map((one) => Number(one.value)));
  out.answers.push({
    fault, took, mask, values,
    label: await page.locator("#label").textContent(),
    isUncertain: (await page.locator("#certain").getAttribute("class")) === "uncertain",
    findings: await page.locator("#findings li").allTextContents(),
    advice: await page.locator("#advice p").textContent(),
    looked: await page.locator("#overlay-words").textContent(),
  });
  await page.locator("#file").evaluate(() => (document.getElementById("answer").hidden = true));
  await page.evaluate(() => document.getElementById("status").classList.remove("fault"));
  if (task.shows) await page.evaluate(() => (document.getElementById("answer").hidden = false));
}
if (task.logits) out.runs = await page.evaluate(() => globalThis.runs);
out.races = [];
for (const [first, second, when] of task.races ?? []) {
  // The second file comes while the first is being read, or looked at; the first is read to its end after the second.
  const given = [first && contentOf(first), contentOf(second), when];
  const race = page.evaluate(async ([first, second, when]) => {
    const of = (id) => document.getElementById(id);
    const now = () => ({
      hidden: of("answer").hidden, fault: of("status").className === "fault" ? of("status").textContent : null,
      label: of("label").textContent, values: [...document.querySelectorAll("#rows data")].map((one) => Number(one.value)),
      picture: of("picture").toDataURL(), overlay: of("overlay").toDataURL(), looked: of("overlay-words").textContent,
    }); // prettier-ignore
    const until = async (holds) => {
      while (!holds()) await new Promise((done) => setTimeout(done));
    };
    const isAnswered = () => of("status").className === "fault" || (!of("answer").hidden && /[.]/.test(of("overlay-words").textContent) && !/measures/.test(of("overlay-words").textContent));
    const { arrayBuffer } = Blob.prototype;
    let open;
    const gate = new Promise((done) => (open = done));
    let read = !first;
    File.prototype.arrayBuffer = async function () {
      if (this.name === "first" && when === "reading") await gate;
      const found = await arrayBuffer.call(this);
      if (this.name === "first") read = true;
      return found;
    };
    const seen = [];
    let changed = performance.now();
    const watch = new MutationObserver(() => (seen.push(now()), (changed = performance.now())));
    // A broken page may leave an answer half told.
    const rest = () => until(() => isAnswered() || performance.now() - changed > 10000);
    if (first) globalThis.dropped(first, "first");
    if (first && when === "looking") await until(() => /measures/.test(of("overlay-words").textContent) || isAnswered());
    globalThis.dropped(second, "second");
    watch.observe(document.querySelector("main"), { attributes: true, childList: true, characterData: true, subtree: true });
    await rest();
    open();
    await until(() => read);
    await new Promise((done) => setTimeout(done, 1500));
    await rest();
    watch.disconnect();
    delete File.prototype.arrayBuffer;
    return { seen, last: now() };
  }, given);
  out.races.push(await race);
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
