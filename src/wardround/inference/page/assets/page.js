// The page: a picture is chosen, read, answered and shown. Nothing here opens a connection, and nothing is stored.
import { argmax, cellsOf, covered, marginOf, maskOf, onFile } from "./answer.js";
import { COLOURS, LEAST_FALL, drawMask, drawHeat, drawPicture } from "./draw.js";
import { Fault } from "./fault.js";
import { isKnown, knownRows } from "./known.js";
import { readPicture } from "./picture.js";
import { findings, prepared } from "./recipe.js";

const MOST_BYTES = 256 * 2 ** 20;
const $ = (id) => document.getElementById(id);
const given = JSON.parse($("card").textContent);
const { classes, recipe, languages } = given;
// Covered pictures in one run of the graph: few where they are large, so that the page stays responsive.
const AT_ONCE = Math.max(1, Math.min(8, Math.floor(2 ** 17 / recipe.image_size ** 2)));
const CHANNELS = recipe.colour === "grey" ? 1 : 3;
const isMasks = given.target === "masks";
let words;
let shown = null;
let asked = 0;

const said = (key, values = {}) =>
  (words[key] ?? key).replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
const percent = (value, digits = 1) =>
  new Intl.NumberFormat($("language").value, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
// No probability is shown as nothing or as certainty.
const chance = (value) => (value > 0.999 ? `> ${percent(0.999)}` : value < 0.001 ? `< ${percent(0.001)}` : percent(value));
const number = (value) => new Intl.NumberFormat($("language").value, { minimumFractionDigits: 2, maximumFractionDigits: 2 }).format(value);

function status(key, values, isFault = false) {
  $("status").textContent = key ? said(key, values) : "";
  $("status").classList.toggle("fault", isFault);
  $("status").last = [key, values, isFault];
}

function speak() {
  const code = $("language").value;
  words = languages[code].words;
  document.documentElement.lang = code;
  for (const place of document.querySelectorAll("[data-word]")) place.textContent = said(place.dataset.word);
  $("show-words").textContent = said(isMasks ? "show_mask" : "show_heat");
  status(...($("status").last ?? []));
  if (shown) tell();
}

function start() {
  const codes = Object.keys(languages);
  for (const code of codes) $("language").add(new Option(languages[code].name, code));
  const wanted = (navigator.languages ?? []).map((name) => codes.find((code) => name.split("-")[0] === code.split("-")[0]));
  $("language").value = wanted.find(Boolean) ?? codes[0];
  $("language-field").hidden = codes.length < 2;
  $("language").addEventListener("change", speak);
  $("show").addEventListener("change", () => ($("overlay").hidden = !$("show").checked));
  for (const id of ["file", "camera"])
    $(id).addEventListener("change", () => {
      const [file] = $(id).files;
      if (file) answer(file);
      $(id).value = "";
    });
  const over = (isOver) => (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", isOver);
  };
  addEventListener("dragover", over(true));
  addEventListener("dragleave", over(false));
  addEventListener("drop", (event) => {
    over(false)(event);
    const [file] = event.dataTransfer?.files ?? [];
    if (file) answer(file);
  });
  speak();
  for (const id of ["file", "camera"]) $(id).disabled = false; // an answer waits for the session
}

async function unpacked(id) {
  const binary = atob($(id).textContent.trim());
  $(id).remove();
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function opened() {
  const { ort } = globalThis;
  const [wasmBinary, graph] = await Promise.all([unpacked("wasm"), unpacked("graph")]);
  Object.assign(ort.env.wasm, { numThreads: 1, proxy: false, wasmBinary });
  ort.env.logLevel = "error";
  const made = await ort.InferenceSession.create(new Uint8Array(graph), { executionProviders: ["wasm"] });
  if (!isKnown(await computed(made, knownRows(CHANNELS, recipe.image_size), 1), given.known)) throw new Fault("unequal");
  return made;
}

function computed(session, rows, count) {
  const shape = [count, CHANNELS, recipe.image_size, recipe.image_size];
  return session.run({ pictures: new globalThis.ort.Tensor("uint8", rows, shape) });
}

let last = Promise.resolve();

// One run at a time: the runtime keeps its arguments on a stack that runs in turn share.
function outputs(rows, count) {
  const mine = last.then(async () => (await computed(await session, rows, count)).probabilities);
  last = mine.catch(() => {});
  return mine;
}

const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

async function answered(bytes) {
  const raw = await readPicture(bytes, given);
  const ready = prepared(raw, recipe);
  const { data, dims } = await outputs(ready.rows, 1);
  const found = isMasks ? segmented(data, dims, raw, ready) : classified(data);
  return { raw, ready, ...found, findings: findings(raw, ready.rows, recipe, given.modalities) };
}

const draw = (canvas, raw) => drawPicture(canvas, raw.display?.() ?? raw, recipe.bits);

// While a person chooses a picture, the page answers drawn ones and shows them nowhere: the first runs of a program,
// which the browser has not yet compiled for speed, take several times as long as later ones.
async function rehearse() {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [640, 512];
  const context = canvas.getContext("2d");
  for (let at = 0; at < 640; at += 4) {
    context.fillStyle = `hsl(${at} 30% ${at / 8}%)`;
    context.fillRect(at, at % 100, 4, 400);
  }
  for (const kind of ["image/jpeg", "image/png", "image/jpeg"]) {
    await painted();
    if (asked) return;
    const blob = await new Promise((done) => canvas.toBlob(done, kind));
    draw(document.createElement("canvas"), (await answered(new Uint8Array(await blob.arrayBuffer()))).raw);
  }
  chance(0.5);
  number(0.5);
}

async function answer(file) {
  const mine = ++asked;
  shown = null;
  $("answer").hidden = true;
  status("reading");
  await painted();
  try {
    if (file.size > MOST_BYTES) throw new Fault("too_many_bytes");
    const found = await answered(new Uint8Array(await file.arrayBuffer()));
    if (mine !== asked) return;
    shown = found;
    $("answer").hidden = false;
    $("overlay").getContext("2d").clearRect(0, 0, $("overlay").width, $("overlay").height);
    $("overlay-words").textContent = "";
    draw($("picture"), found.raw);
    tell();
    status("answered");
    $("answer").focus();
    if (isMasks) drawMask($("overlay"), $("picture"), found.mask, found.raw);
    else await look(mine);
  } catch (error) {
    if (mine !== asked) return;
    status(error instanceof Fault ? error.key : "failed", error.values, true);
    if (!(error instanceof Fault)) console.error(error);
  }
}

function classified(data) {
  const probabilities = Array.from(data);
  const label = argmax(probabilities);
  return { probabilities, label, uncertain: marginOf(probabilities) < given.margin };
}

function segmented(data, dims, raw, ready) {
  const { mask, margin } = maskOf(data, classes.length);
  const onPicture = onFile(mask, dims[3], ready.way, raw.width, raw.height);
  const shares = classes.map(() => 0);
  for (const value of onPicture) shares[value]++;
  return { mask: onPicture, shares: shares.map((count) => count / onPicture.length), uncertain: margin < given.margin };
}

// Occlusion: the fall of the answered class's probability while one cell of the picture is covered.
async function look(mine) {
  const { ready, label, probabilities } = shown;
  const cells = cellsOf(ready.side, recipe.patch);
  const falls = [];
  $("overlay-words").textContent = said("looking");
  for (let i = 0; i < cells.length; i += AT_ONCE) {
    const some = cells.slice(i, i + AT_ONCE);
    const { data } = await outputs(covered(ready.rows, ready.channels, ready.side, some), some.length);
    some.forEach((_, k) => falls.push(probabilities[label] - data[k * classes.length + label]));
    await painted();
    if (mine !== asked) return;
  }
  shown.heat = { cells, falls };
  drawHeat($("overlay"), $("picture"), shown);
  tellHeat();
}

function tell() {
  const { uncertain, probabilities, label, shares } = shown;
  $("label").textContent = isMasks ? said("mask_drawn") : `${classes[label]} ${chance(probabilities[label])}`;
  $("certain").textContent = said(uncertain ? "uncertain" : "certain", { margin: number(given.margin) });
  $("certain").classList.toggle("uncertain", uncertain);
  $("caption").textContent = said(isMasks ? "shares" : "probabilities");
  $("calibration").textContent = isMasks ? "" : said(given.is_calibrated ? "calibrated" : "uncalibrated");
  $("rows").replaceChildren(...classes.map((name, i) => row(name, (shares ?? probabilities)[i], i)));
  const isTwo = !isMasks && classes.length === 2;
  $("scale").hidden = $("scale-ends").hidden = !isTwo;
  if (isTwo) {
    const [band, mark] = $("scale").children;
    band.style.left = `${50 - 50 * given.margin}%`;
    band.style.width = `${100 * given.margin}%`;
    mark.style.left = `${100 * probabilities[1]}%`;
    [$("scale-ends").firstElementChild.textContent, $("scale-ends").lastElementChild.textContent] = classes;
  }
  $("findings").hidden = !shown.findings.length;
  $("findings").lastElementChild.replaceChildren(...shown.findings.map(([key, values]) => {
    const item = document.createElement("li");
    item.textContent = said(key, values);
    return item;
  }));
  const { advice } = languages[$("language").value];
  const own = [uncertain ? advice.uncertain : isMasks ? null : advice.classes?.[classes[label]], advice.always].filter(Boolean);
  $("advice").lastElementChild.textContent = own.length ? own.join("\n") : said("no_advice");
  $("picture").setAttribute("aria-label", said("your_picture", { width: shown.raw.width, height: shown.raw.height }));
  tellHeat();
}

function row(name, value, i) {
  const made = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.classList.toggle("chosen", i === shown.label);
  if (isMasks && i) {
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = `rgb(${COLOURS[i % COLOURS.length]})`;
    head.append(swatch);
  }
  head.append(name);
  const cell = document.createElement("td");
  const exact = document.createElement("data");
  exact.value = value;
  exact.textContent = isMasks ? percent(value, 2) : chance(value);
  cell.append(exact);
  made.append(head, cell);
  return made;
}

function tellHeat() {
  if (isMasks) return void ($("overlay-words").textContent = said("mask_words"));
  if (!shown.heat) return;
  const { cells, falls } = shown.heat;
  const best = argmax(falls);
  const count = Math.sqrt(cells.length);
  const third = (i) => Math.min(2, Math.floor((3 * i) / count));
  const place = said(`place_${third(Math.floor(best / count))}${third(best % count)}`);
  $("overlay-words").textContent = falls[best] < LEAST_FALL ? said("heat_flat")
    : said("heat_words", { place, fall: number(falls[best]), label: classes[shown.label] }); // prettier-ignore
}

start();
status("opening");
const session = opened().catch((error) => {
  if (error instanceof Fault) throw error;
  console.error(error);
  throw new Fault("no_runtime");
});
session.then(
  () => {
    if (!asked) status("ready");
    return rehearse();
  },
  (fault) => status(fault.key, {}, true),
).catch(() => {}); // a browser that draws no picture of its own answers others all the same
