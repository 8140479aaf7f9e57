// JPEG, baseline and progressive, to planes, as libjpeg-turbo decodes it for Pillow: the same integer transforms at
// full, half, quarter and eighth size, the same upsampling and the same colours, to the last bit.
// Source: ITU-T T.81; libjpeg-turbo's jidctint.c, jidctred.c, jdsample.c, jdcolor.c.
import { Fault, checkSize } from "./fault.js";

const ZIGZAG = [
  0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
  35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

export const isJpeg = (bytes) => bytes.length > 2 && bytes[0] === 0xff && bytes[1] === 0xd8;

// Reads all coefficients. Returns width, height, components, exif, and `decode(scale, isGrey)`: planes of 1 / scale.
export function openJpeg(bytes) {
  const state = { quantisers: [], huffman: {}, restart: 0, frame: null, exif: null, jfif: false, adobe: null };
  let at = 2;
  for (;;) {
    while (at < bytes.length && bytes[at] !== 0xff) at++;
    while (bytes[at] === 0xff) at++;
    const marker = bytes[at++];
    if (at >= bytes.length && marker !== 0xd9) throw new Fault("damaged");
    if (marker === 0xd9) break;
    if (marker === 0 || marker === 1 || (marker >= 0xd0 && marker <= 0xd8)) continue;
    const length = (bytes[at] << 8) | bytes[at + 1];
    if (length < 2 || at + length > bytes.length) throw new Fault("damaged");
    const content = bytes.subarray(at + 2, at + length);
    at += length;
    if (marker === 0xda) at = scan(bytes, at, content, state);
    else segment(marker, content, state);
    if (marker === 0xda && state.frame.isComplete && at >= bytes.length) throw new Fault("damaged");
  }
  const { frame } = state;
  if (!frame || !frame.isComplete) throw new Fault("damaged");
  return {
    width: frame.width, height: frame.height, components: frame.components.length, exif: state.exif,
    decode: (scale, isGrey) => decoded(frame, state, 8 / scale, isGrey),
  };
}

const text = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));

function segment(marker, content, state) {
  if (marker === 0xe0 && text(content, 0, 5) === "JFIF\0") state.jfif = true;
  else if (marker === 0xe1 && text(content, 0, 6) === "Exif\0\0") state.exif ??= content.subarray(6);
  else if (marker === 0xee && text(content, 0, 5) === "Adobe") state.adobe = content[11];
  else if (marker === 0xdd) state.restart = (content[0] << 8) | content[1];
  else if (marker === 0xdb) quantisers(content, state);
  else if (marker === 0xc4) huffman(content, state);
  else if (marker >= 0xc0 && marker <= 0xc2) startFrame(marker, content, state);
  else if (marker >= 0xc3 && marker <= 0xcf && marker !== 0xc8 && marker !== 0xcc) throw new Fault("jpeg_kind");
}

function quantisers(content, state) {
  for (let at = 0; at < content.length; ) {
    const [wide, number] = [content[at] >> 4, content[at++] & 15];
    const table = new Int32Array(64);
    for (let i = 0; i < 64; i++, at += 1 + wide)
      table[ZIGZAG[i]] = wide ? (content[at] << 8) | content[at + 1] : content[at];
    state.quantisers[number] = table;
  }
}

function huffman(content, state) {
  for (let at = 0; at + 17 <= content.length; ) {
    const key = content[at++];
    const counts = content.subarray(at, at + 16);
    const total = counts.reduce((a, b) => a + b, 0);
    const symbols = content.subarray(at + 16, at + 16 + total);
    at += 16 + total;
    const lookup = new Int16Array(1 << 16).fill(-1); // by the next 16 bits: length * 256 + symbol
    for (let size = 1, code = 0, k = 0; size <= 16; size++, code <<= 1)
      for (let n = 0; n < counts[size - 1]; n++, code++, k++) {
        if (code >= 1 << size) throw new Fault("damaged");
        lookup.fill((size << 8) | symbols[k], code << (16 - size), (code + 1) << (16 - size));
      }
    state.huffman[key] = lookup;
  }
}

function startFrame(marker, content, state) {
  if (state.frame || content[0] !== 8) throw new Fault("jpeg_kind");
  const [height, width] = [(content[1] << 8) | content[2], (content[3] << 8) | content[4]];
  checkSize(width, height);
  if (content[5] !== 1 && content[5] !== 3) throw new Fault("jpeg_kind");
  if (content.length < 6 + 3 * content[5]) throw new Fault("damaged");
  const components = Array.from({ length: content[5] }, (_, i) => {
    const [id, sampling, quantiser] = content.subarray(6 + 3 * i);
    return { id, h: sampling >> 4, v: sampling & 15, quantiser };
  });
  if (components.some(({ h, v }) => h < 1 || h > 4 || v < 1 || v > 4)) throw new Fault("damaged");
  const [h, v] = [Math.max(...components.map((c) => c.h)), Math.max(...components.map((c) => c.v))];
  const [across, down] = [Math.ceil(width / (8 * h)), Math.ceil(height / (8 * v))];
  for (const c of components) {
    [c.wide, c.high] = [Math.ceil(Math.ceil((width * c.h) / h) / 8), Math.ceil(Math.ceil((height * c.v) / v) / 8)];
    c.stride = across * c.h;
    c.blocks = new Int16Array(64 * c.stride * down * c.v);
    c.table = null;
  }
  state.frame = { width, height, components, h, v, across, down, isProgressive: marker === 0xc2, isComplete: false };
}

class Bits {
  constructor(bytes, at) {
    [this.bytes, this.at, this.bits, this.count, this.missing] = [bytes, at, 0, 0, 0];
  }

  fill() {
    while (this.count <= 16) {
      let byte = 0;
      if (this.at >= this.bytes.length || (this.bytes[this.at] === 0xff && this.bytes[this.at + 1] !== 0)) this.missing += 8;
      else {
        byte = this.bytes[this.at];
        this.at += byte === 0xff ? 2 : 1;
      }
      this.bits = ((this.bits << 8) | byte) & 0xffffff;
      this.count += 8;
    }
  }

  take(n) {
    if (!n) return 0;
    if (this.count < n) this.fill();
    this.count -= n;
    return (this.bits >> this.count) & ((1 << n) - 1);
  }

  symbol(lookup) {
    if (this.count < 16) this.fill();
    const found = lookup[(this.bits >> (this.count - 16)) & 0xffff];
    if (found < 0) throw new Fault("damaged");
    this.count -= found >> 8;
    return found & 255;
  }

  signed(n) {
    const value = this.take(n);
    return n && value < 1 << (n - 1) ? value - (1 << n) + 1 : value;
  }

  // Bits that were taken and are not in the file.
  get isPastEnd() {
    return this.missing > this.count;
  }

  restart() {
    [this.bits, this.count, this.missing] = [0, 0, 0];
    while (this.bytes[this.at] === 0xff && this.bytes[this.at + 1] === 0xff) this.at++;
    if (this.bytes[this.at] !== 0xff || (this.bytes[this.at + 1] & 0xf8) !== 0xd0) throw new Fault("damaged");
    this.at += 2;
  }
}

function scan(bytes, at, content, { frame, huffman, quantisers, restart }) {
  if (!frame) throw new Fault("damaged");
  const count = content[0];
  const several = Array.from({ length: count }, (_, i) => {
    const component = frame.components.find(({ id }) => id === content[1 + 2 * i]);
    if (!component) throw new Fault("damaged");
    component.table ??= quantisers[component.quantiser]?.slice();
    return { component, dc: huffman[content[2 + 2 * i] >> 4], ac: huffman[16 | (content[2 + 2 * i] & 15)], before: 0 };
  });
  const [start, end, approximation] = content.subarray(1 + 2 * count);
  const [high, low] = [approximation >> 4, approximation & 15];
  if (!count || end > 63 || start > end || several.some(({ component }) => !component.table)) throw new Fault("damaged");
  const bits = new Bits(bytes, at);
  const run = { left: 0 };
  const one = !frame.isProgressive ? baseline
    : start === 0 ? (high ? refinedDc : firstDc) : high ? refinedAc : firstAc; // prettier-ignore
  const needs = (one === baseline || one === firstDc ? ["dc"] : []).concat(one === baseline || start ? ["ac"] : []);
  if (several.some((own) => needs.some((name) => !own[name])) || (start && count > 1)) throw new Fault("damaged");
  const block = (own, row, column) =>
    one(bits, own, 64 * (row * own.component.stride + column), { start, end, low, run });
  const alone = count === 1 ? several[0].component : null;
  const [across, down] = alone ? [alone.wide, alone.high] : [frame.across, frame.down];
  for (let unit = 0; unit < across * down; unit++) {
    if (restart && unit && unit % restart === 0) {
      bits.restart();
      run.left = 0;
      for (const own of several) own.before = 0;
    }
    const [row, column] = [Math.floor(unit / across), unit % across];
    if (alone) block(several[0], row, column);
    else
      for (const own of several)
        for (let v = 0; v < own.component.v; v++)
          for (let h = 0; h < own.component.h; h++)
            block(own, row * own.component.v + v, column * own.component.h + h);
    if (bits.isPastEnd) throw new Fault("damaged");
  }
  frame.isComplete = true;
  return bits.at;
}

function baseline(bits, own, at) {
  const { blocks } = own.component;
  own.before += bits.signed(bits.symbol(own.dc));
  blocks[at] = own.before;
  for (let k = 1; k < 64; k++) {
    const found = bits.symbol(own.ac);
    const size = found & 15;
    if (!size) {
      if (found !== 0xf0) return;
      k += 15;
      continue;
    }
    k += found >> 4;
    if (k > 63) throw new Fault("damaged");
    blocks[at + ZIGZAG[k]] = bits.signed(size);
  }
}

function firstDc(bits, own, at, { low }) {
  own.before += bits.signed(bits.symbol(own.dc));
  own.component.blocks[at] = own.before << low;
}

function refinedDc(bits, own, at, { low }) {
  if (bits.take(1)) own.component.blocks[at] |= 1 << low;
}

function firstAc(bits, own, at, { start, end, low, run }) {
  if (run.left) return void run.left--;
  for (let k = start; k <= end; k++) {
    const found = bits.symbol(own.ac);
    const [zeros, size] = [found >> 4, found & 15];
    if (!size && zeros < 15) return void (run.left = (1 << zeros) + bits.take(zeros) - 1);
    k += zeros;
    if (k > 63) throw new Fault("damaged");
    if (size) own.component.blocks[at + ZIGZAG[k]] = bits.signed(size) << low;
  }
}

function refinedAc(bits, own, at, { start, end, low, run }) {
  const { blocks } = own.component;
  const refine = (place) => {
    if (bits.take(1) && !(Math.abs(blocks[place]) & (1 << low))) blocks[place] += blocks[place] < 0 ? -(1 << low) : 1 << low;
  };
  let k = start;
  for (; !run.left && k <= end; k++) {
    const found = bits.symbol(own.ac);
    let [zeros, value] = [found >> 4, 0];
    if (found & 15) value = bits.take(1) ? 1 << low : -(1 << low);
    else if (zeros < 15) {
      run.left = (1 << zeros) + bits.take(zeros);
      break;
    }
    for (; k <= end; k++) {
      const place = at + ZIGZAG[k];
      if (blocks[place]) refine(place);
      else if (zeros-- === 0) {
        if (value) blocks[place] = value;
        break;
      }
    }
  }
  if (!run.left) return;
  for (; k <= end; k++) if (blocks[at + ZIGZAG[k]]) refine(at + ZIGZAG[k]);
  run.left--;
}

function decoded(frame, state, least, isGrey) {
  const { components } = frame;
  const [width, height] = [Math.ceil((frame.width * least) / 8), Math.ceil((frame.height * least) / 8)];
  const ids = String.fromCharCode(...components.map(({ id }) => id));
  const isRgb = components.length === 3 && !state.jfif && (state.adobe !== null ? state.adobe === 0 : ids === "RGB");
  const wanted = isGrey && !isRgb ? components.slice(0, 1) : components;
  const planes = wanted.map((component) => upsampled(component, frame, least, width, height));
  if (planes.length === 1) return { width, height, planes };
  if (!isRgb) toRgb(planes);
  return { width, height, planes };
}

function upsampled(component, frame, least, width, height) {
  let size = least;
  while (size < 8 && (frame.h * least) % (component.h * size * 2) === 0 && (frame.v * least) % (component.v * size * 2) === 0)
    size *= 2;
  const wide = Math.ceil((frame.width * component.h * size) / (8 * frame.h));
  const high = Math.ceil((frame.height * component.v * size) / (8 * frame.v));
  const plane = transformed(component, size, wide, high);
  const [h, v] = [(frame.h * least) / (component.h * size), (frame.v * least) / (component.v * size)];
  const isFancy = least > 1;
  if (h === 1 && v === 1) return plane;
  if (!Number.isInteger(h) || !Number.isInteger(v)) throw new Fault("jpeg_kind");
  if (isFancy && v === 2 && (h === 1 || (h === 2 && wide > 2))) return smoothed(plane, wide, high, width, height, h);
  if (isFancy && v === 1 && h === 2 && wide > 2) return smoothedAcross(plane, wide, width, height);
  const made = new Uint8Array(width * height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) made[y * width + x] = plane[Math.floor(y / v) * wide + Math.floor(x / h)];
  return made;
}

function smoothedAcross(plane, wide, width, height) {
  const made = new Uint8Array(width * height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const at = x >> 1;
      const other = Math.min(wide - 1, Math.max(0, x & 1 ? at + 1 : at - 1));
      const here = plane[y * wide + at];
      made[y * width + x] = other === at ? here : (3 * here + plane[y * wide + other] + (x & 1 ? 2 : 1)) >> 2;
    }
  return made;
}

function smoothed(plane, wide, high, width, height, h) {
  const made = new Uint8Array(width * height);
  const sums = new Int32Array(wide);
  for (let y = 0; y < height; y++) {
    const row = y >> 1;
    const other = Math.min(high - 1, Math.max(0, y & 1 ? row + 1 : row - 1));
    for (let x = 0; x < wide; x++) sums[x] = 3 * plane[row * wide + x] + plane[other * wide + x];
    for (let x = 0; x < width; x++) {
      if (h === 1) {
        made[y * width + x] = (sums[x] + (y & 1 ? 2 : 1)) >> 2;
        continue;
      }
      const at = x >> 1;
      const beside = Math.min(wide - 1, Math.max(0, x & 1 ? at + 1 : at - 1));
      made[y * width + x] = (3 * sums[at] + sums[beside] + (x & 1 ? 7 : 8)) >> 4;
    }
  }
  return made;
}

function toRgb([ys, cbs, crs]) {
  for (let i = 0; i < ys.length; i++) {
    const [y, cb, cr] = [ys[i], cbs[i] - 128, crs[i] - 128];
    ys[i] = level(y + ((91881 * cr + 32768) >> 16));
    cbs[i] = level(y + ((-22554 * cb - 46802 * cr + 32768) >> 16));
    crs[i] = level(y + ((116130 * cb + 32768) >> 16));
  }
}

const level = (value) => (value < 0 ? 0 : value > 255 ? 255 : value);

function transformed({ blocks, table, stride, wide: blocksWide, high: blocksHigh }, size, wide, high) {
  const transform = { 8: whole, 4: half, 2: quarter, 1: eighth }[size];
  const made = new Uint8Array(wide * high);
  const values = new Int32Array(64);
  const space = new Int32Array(64);
  const out = new Uint8Array(64);
  for (let row = 0; row < blocksHigh && row * size < high; row++)
    for (let column = 0; column < blocksWide && column * size < wide; column++) {
      const at = 64 * (row * stride + column);
      for (let i = 0; i < 64; i++) values[i] = blocks[at + i] * table[i];
      transform(values, space, out);
      const columns = Math.min(size, wide - column * size);
      for (let y = 0; y < size && row * size + y < high; y++) {
        const to = (row * size + y) * wide + column * size;
        for (let x = 0; x < columns; x++) made[to + x] = out[y * size + x];
      }
    }
  return made;
}

const scaled = (value, bits) => (value + (1 << (bits - 1))) >> bits;

function line8(i, from, step, o, to, gap, bits, finish) {
  let z1 = (i[from + 2 * step] + i[from + 6 * step]) * 4433;
  const even2 = z1 - i[from + 6 * step] * 15137;
  const even3 = z1 + i[from + 2 * step] * 6270;
  const even0 = (i[from] + i[from + 4 * step]) << 13;
  const even1 = (i[from] - i[from + 4 * step]) << 13;
  const [t10, t13, t11, t12] = [even0 + even3, even0 - even3, even1 + even2, even1 - even2];
  let [a, b, c, d] = [i[from + 7 * step], i[from + 5 * step], i[from + 3 * step], i[from + step]];
  const z5 = (a + c + b + d) * 9633;
  z1 = (a + d) * -7373;
  const z2 = (b + c) * -20995;
  const z3 = (a + c) * -16069 + z5;
  const z4 = (b + d) * -3196 + z5;
  [a, b, c, d] = [a * 2446 + z1 + z3, b * 16819 + z2 + z4, c * 25172 + z2 + z3, d * 12299 + z1 + z4];
  o[to] = finish(scaled(t10 + d, bits));
  o[to + 7 * gap] = finish(scaled(t10 - d, bits));
  o[to + gap] = finish(scaled(t11 + c, bits));
  o[to + 6 * gap] = finish(scaled(t11 - c, bits));
  o[to + 2 * gap] = finish(scaled(t12 + b, bits));
  o[to + 5 * gap] = finish(scaled(t12 - b, bits));
  o[to + 3 * gap] = finish(scaled(t13 + a, bits));
  o[to + 4 * gap] = finish(scaled(t13 - a, bits));
}

const same = (value) => value;
const shown = (value) => level(value + 128);

function whole(values, space, out) {
  for (let x = 0; x < 8; x++) line8(values, x, 8, space, x, 8, 11, same);
  for (let y = 0; y < 8; y++) line8(space, 8 * y, 1, out, 8 * y, 1, 18, shown);
}

function line4(i, from, step, o, to, gap, bits, finish) {
  const even = i[from + 2 * step] * 15137 - i[from + 6 * step] * 6270;
  const [t10, t12] = [(i[from] << 14) + even, (i[from] << 14) - even];
  const [z1, z2, z3, z4] = [i[from + 7 * step], i[from + 5 * step], i[from + 3 * step], i[from + step]];
  const inner = z1 * -1730 + z2 * 11893 + z3 * -17799 + z4 * 8697;
  const outer = z1 * -4176 + z2 * -4926 + z3 * 7373 + z4 * 20995;
  o[to] = finish(scaled(t10 + outer, bits));
  o[to + 3 * gap] = finish(scaled(t10 - outer, bits));
  o[to + gap] = finish(scaled(t12 + inner, bits));
  o[to + 2 * gap] = finish(scaled(t12 - inner, bits));
}

function half(values, space, out) {
  for (let x = 0; x < 8; x++) if (x !== 4) line4(values, x, 8, space, x, 8, 12, same);
  for (let y = 0; y < 4; y++) line4(space, 8 * y, 1, out, 4 * y, 1, 19, shown);
}

function line2(i, from, step, o, to, gap, bits, finish) {
  const odd = i[from + 7 * step] * -5906 + i[from + 5 * step] * 6967 + i[from + 3 * step] * -10426 + i[from + step] * 29692;
  o[to] = finish(scaled((i[from] << 15) + odd, bits));
  o[to + gap] = finish(scaled((i[from] << 15) - odd, bits));
}

function quarter(values, space, out) {
  for (const x of [0, 1, 3, 5, 7]) line2(values, x, 8, space, x, 8, 13, same);
  for (let y = 0; y < 2; y++) line2(space, 8 * y, 1, out, 2 * y, 1, 20, shown);
}

function eighth(values, space, out) {
  out[0] = shown(scaled(values[0], 3));
}
