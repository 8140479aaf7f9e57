// From the outputs of the graph to an answer: the class, the rule for "uncertain", the mask, and where the network looked.

export const GRID = 8;

export const argmax = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);

// The two highest values differ by this.
export function marginOf(values) {
  const [first, second] = [...values].sort((a, b) => b - a);
  return first - second;
}

// probabilities: (class, place); returns the class of each place and the mean margin by the rule for masks.
export function maskOf(probabilities, classes) {
  const places = probabilities.length / classes;
  const mask = new Uint8Array(places);
  const sums = { all: 0, called: 0, count: 0 };
  for (let i = 0; i < places; i++) {
    const own = Array.from({ length: classes }, (_, c) => probabilities[c * places + i]);
    const margin = marginOf(own);
    mask[i] = argmax(own);
    sums.all += margin;
    if (mask[i]) [sums.called, sums.count] = [sums.called + margin, sums.count + 1];
  }
  return { mask, margin: sums.count ? sums.called / sums.count : sums.all / places };
}

// The class of every pixel of the file: that at the nearest place of the model's grid, and 0 where it saw nothing.
export function onFile(mask, side, way, width, height) {
  const index = ([scale, shift], length) =>
    Array.from({ length }, (_, i) => Math.floor(i * scale + (0.5 * scale + (shift - 0.5)) + 0.5));
  const [columns, rows] = [index(way.x, width), index(way.y, height)];
  const made = new Uint8Array(width * height);
  rows.forEach((row, y) => {
    if (row < 0 || row >= side) return;
    columns.forEach((column, x) => {
      if (column >= 0 && column < side) made[y * width + x] = mask[row * side + column];
    });
  });
  return made;
}

// The square of the rows that the network reads, in GRID x GRID cells: (left, top, right, bottom) of each.
export function cellsOf(side, patch) {
  const own = patch ?? side;
  const first = (side - own) >> 1;
  const edge = (i) => first + Math.round((i * own) / Math.min(GRID, own));
  const count = Math.min(GRID, own);
  return Array.from({ length: count * count }, (_, i) => {
    const [row, column] = [Math.floor(i / count), i % count];
    return [edge(column), edge(row), edge(column + 1), edge(row + 1)];
  });
}

// Copies of the rows, each with one cell at the mean level of its channel.
export function covered(rows, channels, side, cells) {
  const made = new Uint8Array(cells.length * rows.length);
  const area = side * side;
  const means = Array.from({ length: channels }, (_, c) =>
    Math.round(rows.subarray(c * area, (c + 1) * area).reduce((a, b) => a + b, 0) / area));
  cells.forEach(([left, top, right, bottom], i) => {
    made.set(rows, i * rows.length);
    for (let c = 0; c < channels; c++)
      for (let y = top; y < bottom; y++) {
        const from = i * rows.length + c * area + y * side;
        made.fill(means[c], from + left, from + right);
      }
  });
  return made;
}
