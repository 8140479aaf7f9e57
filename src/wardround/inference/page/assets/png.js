// PNG to planes, as Pillow decodes it: no colour management, no premultiplied alpha, 16-bit greys kept.
// Source: W3C PNG Specification, third edition.
import { Fault, checkSize, inflated } from "./fault.js";

const SAMPLES = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
const ADAM7 = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

export const isPng = (bytes) => bytes.length > 8 && [137, 80, 78, 71, 13, 10, 26, 10].every((b, i) => bytes[i] === b);

export async function decodePng(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const chunks = {};
  const data = [];
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (at + 12 + length > bytes.length) throw new Fault("damaged");
    const content = bytes.subarray(at + 8, at + 8 + length);
    if (kind === "IDAT") data.push(content);
    else if (!(kind in chunks)) chunks[kind] = content;
    if (kind === "IHDR") {
      if (length !== 13) throw new Fault("damaged");
      checkSize(view.getUint32(at + 8), view.getUint32(at + 12));
    }
    if (kind !== "IDAT" && kind.charCodeAt(0) < 97 && crc(bytes.subarray(at + 4, at + 8 + length)) !== view.getUint32(at + 8 + length))
      throw new Fault("damaged");
    if (kind === "IEND") break;
    at += 12 + length;
  }
  const head = chunks.IHDR;
  if (!head || !data.length) throw new Fault("damaged");
  if (chunks.acTL && new DataView(chunks.acTL.buffer, chunks.acTL.byteOffset).getUint32(0) > 1) throw new Fault("pages");
  const [width, height] = [readUint32(head, 0), readUint32(head, 4)];
  const [depth, kind, , , interlaced] = head.subarray(8);
  if (!(DEPTHS[kind] ?? []).includes(depth) || interlaced > 1) throw new Fault("damaged");
  const samples = SAMPLES[kind];
  const passes = (interlaced ? ADAM7 : [[0, 0, 1, 1]])
    .map(([x, y, dx, dy]) => ({ x, y, dx, dy, wide: Math.ceil((width - x) / dx), high: Math.ceil((height - y) / dy) }))
    .filter((pass) => pass.wide > 0 && pass.high > 0);
  const stride = (wide) => Math.ceil((wide * samples * depth) / 8);
  const size = passes.reduce((sum, { wide, high }) => sum + high * (1 + stride(wide)), 0);
  const rows = await inflated(data, "deflate", size);
  const values = new (depth === 16 ? Uint16Array : Uint8Array)(width * height * samples);
  let at = 0;
  for (const pass of passes) {
    const long = stride(pass.wide);
    unfilter(rows, at, long, pass.high, Math.max(1, (samples * depth) >> 3));
    for (let row = 0; row < pass.high; row++) {
      const from = at + row * (long + 1) + 1;
      const to = (pass.y + row * pass.dy) * width + pass.x;
      for (let i = 0; i < pass.wide * samples; i++) {
        const sample = i % samples;
        const put = (to + ((i - sample) / samples) * pass.dx) * samples + sample;
        if (depth === 8) values[put] = rows[from + i];
        else if (depth === 16) values[put] = (rows[from + 2 * i] << 8) | rows[from + 2 * i + 1];
        else values[put] = (rows[from + ((i * depth) >> 3)] >> (8 - depth - ((i * depth) & 7))) & ((1 << depth) - 1);
      }
    }
    at += pass.high * (long + 1);
  }
  return { width, height, planes: planesOf(values, kind, depth, chunks), exif: chunks.eXIf };
}

function unfilter(rows, at, long, high, step) {
  for (let row = 0; row < high; row++) {
    const kind = rows[at + row * (long + 1)];
    const from = at + row * (long + 1) + 1;
    const above = from - long - 1;
    if (kind > 4) throw new Fault("damaged");
    for (let i = 0; kind && i < long; i++) {
      const a = i >= step ? rows[from + i - step] : 0;
      const b = row ? rows[above + i] : 0;
      const c = row && i >= step ? rows[above + i - step] : 0;
      rows[from + i] += kind === 1 ? a : kind === 2 ? b : kind === 3 ? (a + b) >> 1 : paeth(a, b, c);
    }
  }
}

function paeth(a, b, c) {
  const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

function planesOf(values, kind, depth, chunks) {
  const samples = SAMPLES[kind];
  const count = values.length / samples;
  if (kind === 0 && depth === 16) return [values];
  const high = depth === 16 ? 8 : 0;
  const scale = kind === 0 && depth < 8 ? 255 / ((1 << depth) - 1) : 1;
  const clear = chunks.tRNS;
  const take = (sample) => {
    const plane = new Uint8Array(count);
    for (let i = 0; i < count; i++) plane[i] = (values[i * samples + sample] >> high) * scale;
    return plane;
  };
  if (kind === 3) return ofPalette(values, chunks.PLTE, clear);
  const planes = Array.from({ length: kind & 2 ? 3 : 1 }, (_, sample) => take(sample));
  if (kind & 4) return onBlack(planes, take(samples - 1));
  if (!clear) return planes;
  if (clear.length < 2 * planes.length) throw new Fault("damaged");
  // Pillow compares the low byte of the colour as the file has it with 8 bits of a decoded sample; of 1 bit, any but zero is white.
  const wanted = planes.map((_, i) => (depth > 1 ? clear[2 * i + 1] : clear[2 * i] | clear[2 * i + 1] ? 255 : 0));
  const alpha = new Uint8Array(count).map((_, i) => (planes.every((plane, c) => plane[i] === wanted[c]) ? 0 : 255));
  return onBlack(planes, alpha);
}

function ofPalette(values, palette, clear) {
  if (!palette) throw new Fault("damaged");
  const planes = [0, 1, 2].map((c) => values.map((value) => palette[3 * value + c] ?? 0));
  return clear ? onBlack(planes, values.map((value) => clear[value] ?? 255)) : planes;
}

// Pillow's `alpha_composite` over opaque black.
function onBlack(planes, alpha) {
  for (const plane of planes)
    for (let i = 0; i < plane.length; i++) {
      const product = plane[i] * alpha[i] * 128 + (0x80 << 7);
      plane[i] = ((product >> 8) + product) >> 15;
    }
  return planes;
}

const readUint32 = (bytes, at) => new DataView(bytes.buffer, bytes.byteOffset).getUint32(at);

const TABLE = new Int32Array(256).map((_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

function crc(bytes) {
  let sum = -1;
  for (const byte of bytes) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return ~sum >>> 0;
}
