// A decoded picture to the rows that the model reads: wardround.images.rows in JavaScript, to the last bit.
import { Fault, checkSize } from "./fault.js";

const SEARCH_SIDE = 512;
const MOST_CUT_OFF = 0.4;
const COLOURED = 0.04;
const CONSTANT = 3;
const COLOUR_SIDE = 32;
const BITS = 22;

// Python's `round`: halves to the even number.
export function rounded(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low & 1) : Math.floor(x + 0.5);
}

// Pillow's resampling of 8-bit channels (Resample.c): two passes with weights in 22 bits, each rounded to whole levels.
export function resized(plane, width, height, size, box, filter) {
  const across = weights(box[0], box[2], width, size[0], filter);
  const down = weights(box[1], box[3], height, size[1], filter);
  const first = down.starts[0];
  const last = down.starts[size[1] - 1] + down.counts[size[1] - 1];
  const middle = new Uint8Array(size[0] * (last - first));
  for (let row = first; row < last; row++)
    for (let x = 0; x < size[0]; x++) {
      let sum = 1 << (BITS - 1);
      const from = row * width + across.starts[x];
      for (let k = 0; k < across.counts[x]; k++) sum += plane[from + k] * across.taps[x * across.most + k];
      middle[(row - first) * size[0] + x] = clipped(sum);
    }
  const made = new Uint8Array(size[0] * size[1]);
  for (let y = 0; y < size[1]; y++)
    for (let x = 0; x < size[0]; x++) {
      let sum = 1 << (BITS - 1);
      const from = (down.starts[y] - first) * size[0] + x;
      for (let k = 0; k < down.counts[y]; k++) sum += middle[from + k * size[0]] * down.taps[y * down.most + k];
      made[y * size[0] + x] = clipped(sum);
    }
  return made;
}

const clipped = (sum) => Math.min(255, Math.max(0, sum >> BITS));

function weights(low, high, length, size, filter) {
  const scale = (high - low) / size;
  const stretch = Math.max(1, scale);
  const support = (filter === "box" ? 0.5 : 1) * stretch;
  const most = 2 * Math.ceil(support) + 1;
  const [starts, counts, taps] = [new Int32Array(size), new Int32Array(size), new Int32Array(size * most)];
  for (let at = 0; at < size; at++) {
    const centre = low + (at + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(length, Math.trunc(centre + support + 0.5));
    const own = Array.from({ length: end - start }, (_, k) => {
      const x = (k + start - centre + 0.5) * (1 / stretch);
      return filter === "box" ? Number(x > -0.5 && x <= 0.5) : Math.max(0, 1 - Math.abs(x));
    });
    const sum = own.reduce((a, b) => a + b, 0);
    own.forEach((w, k) => (taps[at * most + k] = Math.trunc((sum ? w / sum : w) * (1 << BITS) + 0.5)));
    starts[at] = start;
    counts[at] = end - start;
  }
  return { starts, counts, taps, most };
}

export function luminance([r, g, b]) {
  return r.map((_, i) => (r[i] * 19595 + g[i] * 38470 + b[i] * 7471 + 0x8000) >> 16);
}

export function ofEightBits(planes, bits) {
  if (!(planes[0] instanceof Uint16Array)) return planes;
  const top = 2 ** bits - 1;
  const most = planes[0].reduce((a, b) => Math.max(a, b), 0);
  if (most > top) throw new Fault("bits", { bits, top, most });
  return planes.map((plane) => Uint8Array.from(plane, (v) => Math.floor((v * 255 + (top >> 1)) / top)));
}

function middle([width, height], ratio) {
  if (width * ratio[1] <= height * ratio[0])
    height = Math.min(height, Math.max(1, Math.floor((2 * width * ratio[1] + ratio[0]) / (2 * ratio[0]))));
  else width = Math.min(width, Math.max(1, Math.floor((2 * height * ratio[0] + ratio[1]) / (2 * ratio[1]))));
  return [width, height];
}

function boxOf(outer, side, fit) {
  if (fit === "crop") {
    const [wide, high] = middle(outer, [side, side]);
    const [left, top] = [(outer[0] - wide) >> 1, (outer[1] - high) >> 1];
    return { box: [left, top, left + wide, top + high], place: [0, 0, side, side] };
  }
  if (fit === "stretch") return { box: [0, 0, ...outer], place: [0, 0, side, side] };
  const [wide, high] = middle([side, side], outer);
  return { box: [0, 0, ...outer], place: [(side - wide) >> 1, (side - high) >> 1, wide, high] };
}

function squaredSize(width, height, aspect) {
  if (aspect > 0.99 && aspect < 1.01) return [width, height];
  return aspect > 1 ? [width, rounded(height * aspect)] : [rounded(width / aspect), height];
}

// Returns the rows, (channel, side, side), and the way from a pixel of the file to one of the model, along x and y.
export function prepared(raw, recipe) {
  const side = recipe.image_size;
  let [width, height] = [raw.width, raw.height];
  let planes = ofEightBits(raw.planes, recipe.bits);
  const way = { x: [1, 0], y: [1, 0] };
  const aspect = raw.aspect ?? 1;
  if (recipe.fit !== "stretch" && !(aspect > 0.99 && aspect < 1.01)) {
    const size = squaredSize(width, height, aspect);
    if (aspect < 0.1 || aspect > 10) throw new Fault("aspect");
    checkSize(...size);
    planes = planes.map((plane) => resized(plane, width, height, size, [0, 0, width, height], "bilinear"));
    [way.x[0], way.y[0]] = [size[0] / width, size[1] / height];
    [width, height] = size;
  }
  const circle = recipe.circle_crop ? findCircle(planes, width, height) : null;
  if (circle) {
    const { side: across, top, left, made } = within(planes, width, height, circle);
    planes = made;
    way.x[1] -= left;
    way.y[1] -= top;
    width = height = across;
  }
  const channels = recipe.colour === "grey" ? 1 : 3;
  if (channels === 1 && planes.length === 3) planes = [luminance(planes)];
  if (channels === 3 && planes.length === 1) planes = [planes[0], planes[0], planes[0]];
  const { box, place } = boxOf([width, height], side, recipe.fit);
  const [left, top, wide, high] = place;
  const filter = box[2] - box[0] >= wide && box[3] - box[1] >= high ? "box" : "bilinear";
  const rows = new Uint8Array(channels * side * side);
  planes.forEach((plane, channel) => {
    const made = resized(plane, width, height, [wide, high], box, filter);
    for (let row = 0; row < high; row++)
      rows.set(made.subarray(row * wide, (row + 1) * wide), (channel * side + top + row) * side + left);
  });
  const cut = recipe.patch === null ? 0 : (side - recipe.patch) >> 1;
  const onto = (way, low, high, put, length) => {
    const scale = length / (high - low);
    return [way[0] * scale, (way[1] - low) * scale + put - cut];
  };
  return {
    rows, channels, side, cut,
    way: { x: onto(way.x, box[0], box[2], left, wide), y: onto(way.y, box[1], box[3], top, high) },
  };
}

function quantile(counts, total, q) {
  const at = q * (total - 1);
  const value = (index) => {
    let seen = 0;
    for (let level = 0; level < 256; level++) if ((seen += counts[level]) > index) return level;
    return 255;
  };
  const [low, high] = [value(Math.floor(at)), value(Math.ceil(at))];
  return low + (high - low) * (at - Math.floor(at));
}

function histogram(values) {
  const counts = new Uint32Array(256);
  for (const value of values) counts[value]++;
  return counts;
}

function longestRun(flags) {
  let best = [0, 0];
  for (let start = 0; start < flags.length; start++) {
    if (!flags[start]) continue;
    let end = start;
    while (end < flags.length && flags[end]) end++;
    if (end - start > best[1] - best[0]) best = [start, end];
    start = end;
  }
  return best;
}

function centre(first, last, length, diameter) {
  if (first === 0 && last !== length) return last - diameter / 2;
  if (last === length && first !== 0) return first + diameter / 2;
  return (first + last) / 2;
}

function findCircle(planes, width, height) {
  const step = Math.max(1, Math.floor(Math.min(width, height) / SEARCH_SIDE));
  const [wide, high] = [Math.ceil(width / step), Math.ceil(height / step)];
  const light = new Uint8Array(wide * high);
  for (let y = 0; y < high; y++)
    for (let x = 0; x < wide; x++)
      light[y * wide + x] = Math.max(...planes.map((plane) => plane[y * step * width + x * step]));
  const counts = histogram(light);
  const [dark, bright] = [quantile(counts, light.length, 0.01), quantile(counts, light.length, 0.99)];
  if (bright - dark < 10) return null;
  const inside = light.map((v) => Number(v > dark + 0.1 * (bright - dark)));
  const shorter = Math.min(wide, high);
  const least = Math.max(1, 0.05 * shorter);
  const sums = (top, bottom, left, right) => {
    const [columns, rows] = [new Uint32Array(wide), new Uint32Array(high)];
    for (let y = top; y < bottom; y++)
      for (let x = left; x < right; x++) {
        columns[x] += inside[y * wide + x];
        rows[y] += inside[y * wide + x];
      }
    return { columns: [...columns].map((n) => n >= least), rows: [...rows].map((n) => n >= least) };
  };
  let [left, right] = longestRun(sums(0, high, 0, wide).columns);
  const [top, bottom] = longestRun(sums(0, high, left, right).rows);
  [left, right] = longestRun(sums(top, bottom, 0, wide).columns);
  const diameter = Math.max(bottom - top, right - left);
  if (diameter < 0.25 * shorter) return null;
  return {
    row: centre(top, bottom, high, diameter) * step,
    column: centre(left, right, wide, diameter) * step,
    radius: (diameter / 2) * step,
  };
}

function within(planes, width, height, circle) {
  const side = Math.max(1, rounded(2 * circle.radius));
  const [top, left] = [rounded(circle.row - circle.radius), rounded(circle.column - circle.radius)];
  const made = planes.map(() => new Uint8Array(side * side));
  for (let y = Math.max(0, -top); y < Math.min(side, height - top); y++)
    for (let x = Math.max(0, -left); x < Math.min(side, width - left); x++) {
      if ((y + 0.5 + top - circle.row) ** 2 + (x + 0.5 + left - circle.column) ** 2 > circle.radius ** 2) continue;
      planes.forEach((plane, c) => (made[c][y * side + x] = plane[(y + top) * width + x + left]));
    }
  return { side, top, left, made };
}

export function isColoured({ width, height, planes }) {
  if (planes.length !== 3) return false;
  const step = Math.max(1, Math.floor(Math.min(width, height) / COLOUR_SIDE));
  let [sum, count] = [0, 0];
  for (let y = 0; y < height; y += step)
    for (let x = 0; x < width; x += step) {
      const own = planes.map((plane) => plane[y * width + x]);
      sum += Math.max(...own) - Math.min(...own);
      count++;
    }
  return sum / count / 255 > COLOURED;
}

// Keys of the words, with their values: what lies outside of the model's recipe.
export function findings(raw, rows, recipe, modalities) {
  const found = [];
  if (modalities?.length && raw.modality && !modalities.includes(raw.modality))
    found.push(["modality", { modality: raw.modality, modalities: modalities.join(", ") }]);
  if (raw.caution) found.push([raw.caution, {}]);
  if (recipe.colour === "grey" && raw.isColoured) found.push(["coloured", {}]);
  const counts = histogram(rows);
  if (quantile(counts, rows.length, 0.95) - quantile(counts, rows.length, 0.05) < CONSTANT) found.push(["constant", {}]);
  if (Math.min(raw.width, raw.height) < recipe.image_size)
    found.push(["enlarged", { width: raw.width, height: raw.height, size: recipe.image_size }]);
  const [wide, high] = [raw.width, raw.height * (raw.aspect ?? 1)];
  const off = 1 - Math.min(wide, high) / Math.max(wide, high);
  if (recipe.fit === "crop" && off > MOST_CUT_OFF) found.push(["cut_off", { share: `${Math.round(off * 100)} %` }]);
  return found;
}
