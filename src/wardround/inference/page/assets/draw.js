// Pictures on a canvas, a mask or the occlusion map on the canvas above it.
import { ofEightBits } from "./recipe.js";

const LONGEST = 1024;
export const LEAST_FALL = 0.01;
export const COLOURS = [[0, 0, 0], [0, 158, 230], [230, 120, 0], [0, 170, 110], [220, 90, 170], [240, 220, 40]];

const packed = (red, green, blue, alpha) => (alpha << 24) | (blue << 16) | (green << 8) | red;

export function drawPicture(canvas, raw, bits) {
  const [red, green = red, blue = red] = ofEightBits(raw.planes, bits);
  const image = sampled(raw, (i) => packed(red[i], green[i], blue[i], 255));
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext("2d").putImageData(image, 0, 0);
  // A small picture is shown large, and pixels that are not square are shown as they are.
  canvas.style.width = `${Math.max(image.width, 320)}px`;
  canvas.style.aspectRatio = `${image.width} / ${image.height * (raw.aspect ?? 1)}`;
}

// Every nth pixel along both axes, so that neither side is above LONGEST; its colour by its place.
function sampled({ width, height }, colour) {
  const step = Math.max(1, Math.ceil(Math.max(width, height) / LONGEST));
  const image = new ImageData(Math.ceil(width / step), Math.ceil(height / step));
  const pixels = new Uint32Array(image.data.buffer); // WebAssembly runs on little-endian machines only
  for (let y = 0, at = 0; y < height; y += step)
    for (let x = 0; x < width; x += step) pixels[at++] = colour(y * width + x);
  return image;
}

function like(overlay, canvas) {
  [overlay.width, overlay.height] = [canvas.width, canvas.height];
  for (const name of ["width", "aspectRatio"]) overlay.style[name] = canvas.style[name];
  return overlay.getContext("2d");
}

export function drawMask(overlay, canvas, mask, raw) {
  const image = sampled(raw, (i) => mask[i] && packed(...COLOURS[mask[i] % COLOURS.length], 130));
  like(overlay, canvas).putImageData(image, 0, 0);
}

// Cells lie on the model's rows; the way back to the file is affine along each axis.
export function drawHeat(overlay, canvas, { heat: { cells, falls }, ready, raw }) {
  const context = like(overlay, canvas);
  const most = Math.max(...falls);
  if (most < LEAST_FALL) return;
  const cut = ready.cut;
  const onto = ([scale, shift], at, ratio) => ((at - cut - shift) / scale) * ratio;
  const [across, down] = [canvas.width / raw.width, canvas.height / raw.height];
  cells.forEach(([left, top, right, bottom], i) => {
    if (falls[i] <= 0) return;
    context.fillStyle = `rgba(255, 140, 0, ${(0.7 * falls[i]) / most})`;
    const [x, y] = [onto(ready.way.x, left, across), onto(ready.way.y, top, down)];
    context.fillRect(x, y, onto(ready.way.x, right, across) - x, onto(ready.way.y, bottom, down) - y);
  });
}
