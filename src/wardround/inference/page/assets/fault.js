// A reason why a picture is not answered: a key of the words, and what is put into its braces.
export class Fault extends Error {
  constructor(key, values = {}) {
    super(key);
    this.key = key;
    this.values = values;
  }
}

export const MOST_PIXELS = 50_000_000;

export function checkSize(width, height) {
  if (width < 1 || height < 1) throw new Fault("damaged");
  if (width * height > MOST_PIXELS) throw new Fault("too_large", { width, height });
}

// Exactly `length` bytes of a compressed stream; fewer are a fault, and no more are unpacked.
export async function inflated(parts, format, length) {
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream(format)).getReader();
  const found = new Uint8Array(length);
  let at = 0;
  try {
    while (at < length) {
      const { done, value } = await reader.read();
      if (done) break;
      found.set(value.subarray(0, length - at), at);
      at += Math.min(value.length, length - at);
    }
  } catch {
    throw new Fault("damaged");
  }
  reader.cancel().catch(() => {});
  if (at < length) throw new Fault("damaged");
  return found;
}
