// A picture whose outputs the export stored: where this browser computes others, no answer is given.

const MOST_OFF = 1e-3;

// The rows of `known_picture` in wardround.inference.page.known: arithmetic, and no patient's.
export function knownRows(channels, side) {
  const rows = new Uint8Array(channels * side * side);
  for (let i = 0; i < rows.length; i++) {
    const [column, row, channel] = [i % side, Math.floor(i / side) % side, Math.floor(i / side ** 2)];
    rows[i] = (column * (3 * row + 1) + 85 * channel) % 256;
  }
  return rows;
}

// Outputs of the graph and those stored, by name; they may differ by a part of the largest, or of 1 where all are smaller.
export function isKnown(outputs, known) {
  return Object.entries(known).every(([name, expected]) => {
    const { data } = outputs[name];
    const most = MOST_OFF * Math.max(1, ...expected.map(Math.abs));
    return expected.every((value, i) => Math.abs(data[(7919 * i) % data.length] - value) <= most);
  });
}
