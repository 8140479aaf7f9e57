// Uncompressed DICOM to a picture: wardround.images.dicom in JavaScript, for files of one frame.
// Source: DICOM PS3.5 (encoding), PS3.3 C.11.1, C.11.2 (look-up tables and windows), C.7.5.1.1.2 (padding).
import { Fault, checkSize, inflated } from "./fault.js";
import { rounded } from "./recipe.js";

const SYNTAXES = {
  "1.2.840.10008.1.2": { isImplicit: true, isLittle: true },
  "1.2.840.10008.1.2.1": { isImplicit: false, isLittle: true },
  "1.2.840.10008.1.2.1.99": { isImplicit: false, isLittle: true, isDeflated: true },
  "1.2.840.10008.1.2.2": { isImplicit: false, isLittle: false },
};
const LONG = new Set(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"]);
const TAGS = {
  imageType: [0x00080008, "CS"], sopClass: [0x00080016, "UI"], modality: [0x00080060, "CS"],
  conversionType: [0x00080064, "CS"], regions: [0x00186011, "SQ"], left: [0x00186018, "UL"], top: [0x0018601a, "UL"],
  right: [0x0018601c, "UL"], low: [0x0018601e, "UL"], samples: [0x00280002, "US"], photometric: [0x00280004, "CS"],
  planar: [0x00280006, "US"], frames: [0x00280008, "IS"], rows: [0x00280010, "US"], columns: [0x00280011, "US"],
  pixelSpacing: [0x00280030, "DS"], imagerSpacing: [0x00181164, "DS"], nominalSpacing: [0x00182010, "DS"],
  pixelAspect: [0x00280034, "IS"], allocated: [0x00280100, "US"], stored: [0x00280101, "US"], highBit: [0x00280102, "US"],
  signed: [0x00280103, "US"], padding: [0x00280120, "xs"], paddingLimit: [0x00280121, "xs"],
  burnedIn: [0x00280301, "CS"], centre: [0x00281050, "DS"], width: [0x00281051, "DS"], intercept: [0x00281052, "DS"],
  slope: [0x00281053, "DS"], voiFunction: [0x00281056, "CS"], modalityTable: [0x00283000, "SQ"],
  descriptor: [0x00283002, "xs"], table: [0x00283006, "OW"], voiTable: [0x00283010, "SQ"],
  measures: [0x00289110, "SQ"], voi: [0x00289132, "SQ"], transformation: [0x00289145, "SQ"],
  shared: [0x52009229, "SQ"], perFrame: [0x52009230, "SQ"], pixels: [0x7fe00010, "OW"],
}; // prettier-ignore
const VRS = new Map(Object.values(TAGS));
const NO_PICTURES = "SR PR KO REG DOC RTSTRUCT RTPLAN RTDOSE RTRECORD ECG AU HD RWV SEG".split(" ");
const VOLUMES = ["CT", "MR", "PT"];
const SIZES = { US: 2, SS: 2, UL: 4, SL: 4, OW: 2 };

export function isDicom(bytes) {
  return (bytes.length >= 132 && String.fromCharCode(...bytes.subarray(128, 132)) === "DICM") || isBare(bytes);
}

function isBare(bytes) {
  if (bytes.length < 8) return false;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const isLittle = bytes[0] !== 0;
  const [group, element] = [view.getUint16(0, isLittle), view.getUint16(2, isLittle)];
  if ((group !== 2 && group !== 8) || element > 0xff) return false;
  const isExplicit = [bytes[4], bytes[5]].every((b) => b >= 65 && b <= 90);
  return isExplicit || (isLittle && group === 8 && view.getUint32(4, true) <= 64);
}

class Reader {
  constructor(bytes, at, { isImplicit, isLittle }) {
    [this.bytes, this.at, this.isImplicit, this.isLittle] = [bytes, at, isImplicit, isLittle];
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  header() {
    const { view, isLittle } = this;
    const tag = view.getUint16(this.at, isLittle) * 65536 + view.getUint16(this.at + 2, isLittle);
    if (this.isImplicit || tag >>> 16 === 0xfffe) {
      const length = view.getUint32(this.at + 4, isLittle);
      this.at += 8;
      return { tag, vr: VRS.get(tag) ?? "UN", length };
    }
    const vr = String.fromCharCode(this.bytes[this.at + 4], this.bytes[this.at + 5]);
    const isLong = LONG.has(vr);
    const length = isLong ? view.getUint32(this.at + 8, isLittle) : view.getUint16(this.at + 6, isLittle);
    this.at += isLong ? 12 : 8;
    return { tag, vr, length };
  }

  // Elements up to an end, or to a delimiter; values are places in the file.
  elements(end, depth = 0) {
    if (depth > 16) throw new Fault("damaged");
    const found = new Map();
    while (this.at + 8 <= end) {
      const { tag, vr, length } = this.header();
      if (tag === 0xfffee00d || tag > 0x7fe00010) break;
      const isOpen = length === 0xffffffff;
      if (vr === "SQ" || (isOpen && tag !== 0x7fe00010)) {
        const isImplicit = this.isImplicit;
        if (vr === "UN") this.isImplicit = true;
        found.set(tag, { items: this.items(isOpen ? end : this.at + length, isOpen, depth) });
        this.isImplicit = isImplicit;
        continue;
      }
      if (this.at + length > end) throw new Fault("damaged");
      found.set(tag, { vr, from: this.at, length });
      this.at += length;
    }
    return found;
  }

  items(end, isOpen, depth) {
    const found = [];
    while (this.at + 8 <= end) {
      const { tag, length } = this.header();
      if (tag !== 0xfffee000) {
        if (tag === 0xfffee0dd && isOpen) break;
        throw new Fault("damaged");
      }
      const last = length === 0xffffffff ? end : this.at + length;
      if (last > end) throw new Fault("damaged");
      found.push(this.elements(last, depth + 1));
      if (length !== 0xffffffff) this.at = last;
    }
    return found;
  }
}

class Found {
  constructor(reader, elements) {
    [this.reader, this.elements] = [reader, elements];
    this.isSigned = false;
  }

  items(name) {
    return (this.elements.get(TAGS[name][0])?.items ?? []).map((elements) => this.of(elements));
  }

  of(elements) {
    const made = new Found(this.reader, elements);
    made.isSigned = this.isSigned;
    return made;
  }

  has(...names) {
    return names.every((name) => this.elements.get(TAGS[name][0])?.length);
  }

  texts(name) {
    const element = this.elements.get(TAGS[name][0]);
    if (!element?.length) return [];
    const bytes = this.reader.bytes.subarray(element.from, element.from + element.length);
    return new TextDecoder("latin1").decode(bytes).split("\\").map((word) => word.replace(/^[ \t\r\n\0]+|[ \t\r\n\0]+$/g, ""));
  }

  text(name) {
    return this.texts(name).join("\\");
  }

  numbers(name) {
    const [tag, usual] = TAGS[name];
    const element = this.elements.get(tag);
    if (!element?.length) return null;
    let vr = SIZES[element.vr] ? element.vr : usual;
    if (vr === "xs") vr = this.isSigned ? "SS" : "US";
    const found = SIZES[vr] ? this.binary(element, vr) : this.texts(name).filter(Boolean).map(Number);
    if (!found.every(Number.isFinite)) throw new Fault("damaged");
    return found.length ? found : null;
  }

  binary({ from, length }, vr) {
    const { view, isLittle } = this.reader;
    const read = { US: "getUint16", OW: "getUint16", SS: "getInt16", UL: "getUint32", SL: "getInt32" }[vr];
    return Array.from({ length: Math.floor(length / SIZES[vr]) }, (_, i) => view[read](from + i * SIZES[vr], isLittle));
  }

  number(name, usual) {
    return Math.trunc(this.numbers(name)?.[0] ?? usual);
  }
}

export async function decodeDicom(bytes) {
  const found = await parsed(bytes);
  const modality = found.text("modality").toUpperCase();
  const pixels = found.elements.get(TAGS.pixels[0]);
  if (!pixels?.length || !found.number("rows", 0) || NO_PICTURES.includes(modality)) throw new Fault("no_pixels");
  if (found.texts("imageType").some((value) => value.toUpperCase() === "LOCALIZER")) throw new Fault("localizer");
  if (VOLUMES.includes(modality)) throw new Fault("slices", { modality });
  if (found.number("frames", 1) > 1) throw new Fault("frames", { frames: found.number("frames", 1) });
  const [width, height] = [found.number("columns", 0), found.number("rows", 0)];
  checkSize(width, height);
  const perFrame = found.items("perFrame").slice(0, 1);
  const macros = [...perFrame, ...found.items("shared").slice(0, 1)].flatMap((group) =>
    ["measures", "transformation", "voi"].flatMap((name) => group.items(name).slice(0, 1)));
  const places = [...macros, found];
  const kind = found.text("photometric");
  const samples = found.number("samples", 1);
  const cells = cellsOf(found, pixels, width * height, samples);
  let planes;
  if (kind.startsWith("MONOCHROME") && samples === 1) planes = [greys(cells, found, places, kind === "MONOCHROME1")];
  else if (kind === "RGB" && samples === 3) planes = coloured(cells, found, width * height);
  else throw new Fault("colours");
  planes = regionsOnly(planes, found, width, height);
  return { width, height, planes, aspect: aspectOf(places), modality, caution: cautionOf(found) };
}

async function parsed(bytes) {
  let content = bytes;
  let [at, meta] = [0, null];
  const isMarked = !isBare(bytes);
  if (isMarked) at = 132;
  const start = new DataView(bytes.buffer, bytes.byteOffset);
  if (start.getUint16(at, true) === 2) {
    const reader = new Reader(bytes, at, SYNTAXES["1.2.840.10008.1.2.1"]);
    meta = new Map();
    while (reader.at + 8 <= bytes.length && start.getUint16(reader.at, true) === 2) {
      const { tag, length } = reader.header();
      meta.set(tag, new TextDecoder("latin1").decode(bytes.subarray(reader.at, reader.at + length)));
      reader.at += length;
    }
    at = reader.at;
  }
  const name = meta?.get(0x00020010)?.replace(/[\0 ]+$/, "");
  const syntax = name ? SYNTAXES[name] : guessed(bytes, at);
  if (!syntax) throw new Fault("compressed");
  if (syntax.isDeflated) {
    content = await unpacked(bytes.subarray(at));
    at = 0;
  }
  const reader = new Reader(content, at, syntax);
  const found = new Found(reader, reader.elements(content.length));
  found.isSigned = found.number("signed", 0) === 1;
  return found;
}

function guessed(bytes, at) {
  const isLittle = bytes[at] !== 0;
  const isExplicit = [bytes[at + 4], bytes[at + 5]].every((b) => b >= 65 && b <= 90);
  return { isImplicit: !isExplicit, isLittle };
}

async function unpacked(bytes) {
  const MOST = 300_000_000;
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const parts = [];
  let size = 0;
  try {
    for (let next = await reader.read(); !next.done && size < MOST; next = await reader.read()) {
      parts.push(next.value);
      size += next.value.length;
    }
  } catch {
    // A byte of padding may follow the stream; what came before it is whole, or the reader will say that it is not.
  }
  if (size >= MOST) throw new Fault("damaged");
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

function cellsOf(found, { from, length }, count, samples) {
  const [allocated, stored] = [found.number("allocated", 0), found.number("stored", 0)];
  const high = found.number("highBit", stored - 1);
  const { bytes, view, isLittle } = found.reader;
  if ((samples !== 1 && samples !== 3) || ![8, 16].includes(allocated)) throw new Fault("colours");
  if (stored < 1 || stored > allocated || high < stored - 1 || high >= allocated) throw new Fault("damaged");
  if (length === 0xffffffff) throw new Fault("compressed");
  if (length < (count * samples * allocated) / 8) throw new Fault("damaged");
  const cells = new Int32Array(count * samples);
  const above = 32 - 1 - high;
  for (let i = 0; i < cells.length; i++) {
    const cell = allocated === 8 ? bytes[from + i] : view.getUint16(from + 2 * i, isLittle);
    cells[i] = found.isSigned ? (cell << above) >> (32 - stored) : (cell << above) >>> (32 - stored);
  }
  return cells;
}

function greys(cells, found, places, isInverted) {
  const isPadding = paddingOf(found);
  let [low, high] = [Infinity, -Infinity];
  for (const cell of cells) {
    if (cell < low) low = cell;
    if (cell > high) high = cell;
  }
  const seen = new Uint8Array(high - low + 1);
  for (const cell of cells) seen[cell - low] = 1;
  const occurring = [...seen.keys()].filter((i) => seen[i]).map((i) => i + low);
  const physical = rescaled(occurring, found, places);
  const levels = shownBy(physical, occurring, found, places, isPadding);
  const table = new Uint8Array(seen.length);
  occurring.forEach((cell, i) => {
    const level = rounded(255 * levels[i]);
    table[cell - low] = isPadding(cell) ? 0 : isInverted ? 255 - level : level;
  });
  return Uint8Array.from(cells, (cell) => table[cell - low]);
}

const placeWith = (places, ...names) => places.find((place) => place.has(...names));

function rescaled(cells, found, places) {
  const tables = found.items("modalityTable");
  if (tables.length) return looked(cells, tables[0]).values;
  const place = placeWith(places, "slope", "intercept");
  if (!place) return cells;
  const [slope, intercept] = [place.numbers("slope")[0], place.numbers("intercept")[0]];
  return cells.map((cell) => cell * slope + intercept);
}

function looked(values, item) {
  const descriptor = item.numbers("descriptor");
  const data = item.numbers("table");
  if (descriptor?.length !== 3 || !data) throw new Fault("damaged");
  const [count, first, bits] = [(descriptor[0] & 0xffff) || 65536, descriptor[1], descriptor[2]];
  const most = Math.min(count, data.length) - 1;
  const place = (value) => Math.min(most, Math.max(0, Math.trunc(value) - first));
  return { values: values.map((value) => data[place(value)]), bits };
}

// Levels, 0..1: by the first look-up table or window, else as they are (8 bits) or by the picture's own range.
function shownBy(values, cells, found, places, isPadding) {
  const within = (x) => Math.min(1, Math.max(0, x));
  const tables = found.items("voiTable");
  if (tables[0]?.has("descriptor", "table")) {
    const { values: shown, bits } = looked(values.map(rounded), tables[0]);
    return shown.map((value) => within(value / (2 ** bits - 1)));
  }
  const place = placeWith(places, "centre", "width");
  if (place) {
    let [centre, width] = [place.numbers("centre")?.[0], place.numbers("width")?.[0]];
    const kind = place.text("voiFunction").toUpperCase() || "LINEAR";
    const isNone = centre === undefined || width === undefined || (width < 1 && (kind === "LINEAR" || width <= 0));
    if (!isNone && kind === "SIGMOID") return values.map((v) => 1 / (1 + Math.exp((-4 * (v - centre)) / width)));
    if (!isNone) {
      if (kind !== "LINEAR_EXACT") [centre, width] = [centre - 0.5, width - 1];
      return values.map((v) => (width === 0 ? Number(v > centre) : within((v - centre) / width + 0.5)));
    }
  }
  const bits = found.number("stored", 16);
  if (bits <= 8 && !found.isSigned) return cells.map((cell) => cell / (2 ** bits - 1));
  const kept = values.filter((_, i) => !isPadding(cells[i]));
  const [low, high] = [kept.reduce((a, b) => Math.min(a, b), Infinity), kept.reduce((a, b) => Math.max(a, b), -Infinity)];
  return values.map((v) => (high > low ? within((v - low) / (high - low)) : 0));
}

function paddingOf(found) {
  const padding = found.numbers("padding");
  if (!padding) return () => false;
  const limit = found.numbers("paddingLimit") ?? padding;
  const [low, high] = [padding[0], limit[0]].map((value) => asStored(value, found)).sort((a, b) => a - b);
  return (cell) => cell >= low && cell <= high;
}

function asStored(value, found) {
  const bits = found.number("stored", 16);
  const [low, high] = found.isSigned ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1];
  for (const size of [found.number("allocated", 16), bits])
    if (value < low || value > high) {
      const turned = ((value % 2 ** size) + 2 ** size) % 2 ** size;
      value = found.isSigned && turned >= 2 ** (size - 1) ? turned - 2 ** size : turned;
    }
  return value;
}

function coloured(cells, found, count) {
  const bits = found.number("stored", 8);
  const isPlanar = found.number("planar", 0) === 1;
  const level = (v) => (bits === 8 ? Math.min(255, Math.max(0, v)) : rounded(Math.min(1, Math.max(0, v / (2 ** bits - 1))) * 255));
  return [0, 1, 2].map((c) => Uint8Array.from({ length: count }, (_, i) => level(cells[isPlanar ? c * count + i : 3 * i + c])));
}

function regionsOnly(planes, found, width, height) {
  const regions = found.items("regions");
  if (!regions.length) return planes;
  const made = planes.map((plane) => new Uint8Array(plane.length));
  for (const region of regions) {
    const [left, top, right, low] = ["left", "top", "right", "low"].map((name) => region.number(name, -1));
    if (!(0 <= left && left <= right && 0 <= top && top <= low)) throw new Fault("damaged");
    for (let y = top; y <= Math.min(low, height - 1); y++)
      planes.forEach((plane, c) =>
        made[c].set(plane.subarray(y * width + left, y * width + Math.min(right + 1, width)), y * width + left));
  }
  return made;
}

function aspectOf(places) {
  for (const name of ["pixelSpacing", "imagerSpacing", "nominalSpacing", "pixelAspect"]) {
    const sides = placeWith(places, name)?.texts(name).map(Number);
    if (sides?.length === 2 && sides.every((side) => Number.isFinite(side) && side > 0)) return sides[0] / sides[1];
  }
  return 1;
}

// The key of a reason for which training leaves such a picture out until a person has looked at it.
function cautionOf(found) {
  const sopClass = found.text("sopClass");
  const isOf = (family) => sopClass === family || sopClass.startsWith(`${family}.`);
  const kinds = found.texts("imageType").map((value) => value.toUpperCase());
  if (found.text("burnedIn").toUpperCase() === "YES") return "burned_in";
  if (isOf("1.2.840.10008.5.1.4.1.1.7") || found.text("conversionType")) return "captured";
  if ((kinds[0] === "DERIVED" && kinds[1] === "SECONDARY") || kinds.some((kind) => kind.includes("SCREEN"))) return "derived";
  const isUltrasound = ["US", "IVUS"].includes(found.text("modality").toUpperCase()) ||
    ["1.2.840.10008.5.1.4.1.1.3", "1.2.840.10008.5.1.4.1.1.6"].some(isOf);
  return isUltrasound && !found.items("regions").length ? "without_regions" : null;
}
