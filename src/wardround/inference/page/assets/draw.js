// Pictures on a canvas, a mask or the occlusion map on the canvas above it.
import { ofEightBits } from "./recipe.js";

const LONGEST = 1024;
export const LEAST_FALL = 0.01;
export const COLOURS = [[0, 0, 0], [0, 158, 230], [230, 120, 0], [0, 170, 110], [220, 90, 170], [240, 220, 40]];

export function drawPicture(canvas, raw, bits) {
  const planes = ofEightBits(raw.planes, bits);
  const step = Math.max(1, Math.ceil(Math.max(raw.width, raw.height) / LONGEST));
  const image = sampled(raw, step, (i) => [planes[0][i], (planes[1] ?? planes[0])[i], (planes[2] ?? planes[0])[i], 255]);
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext("2d").putImageData(image, 0, 0);
  // A small picture is shown large, and pixels that are not square are shown as they are.
  canvas.style.width = `${Math.max(image.width, 320)}px`;
  canvas.style.aspectRatio = `${image.width} / ${image.height * (raw.aspect ?? 1)}`;
}

function sampled({ width, height }, step, colour) {
  const [wide, high] = [Math.ceil(width / step), Math.ceil(height / step)];
  const image = new ImageData(wide, high);
  for (let y = 0; y < high; y++)
    for (let x = 0; x < wide; x++) image.data.set(colour(y * step * width + x * step), 4 * (y * wide + x));
  return image;
}

function like(overlay, canvas) {
  [overlay.width, overlay.height] = [canvas.width, canvas.height];
  for (const name of ["width", "aspectRatio"]) overlay.style[name] = canvas.style[name];
  return overlay.getContext("2d");
}

export function drawMask(overlay, canvas, mask, raw) {
  const step = Math.max(1, Math.ceil(Math.max(raw.width, raw.height) / LONGEST));
  const image = sampled(raw, step, (i) => (mask[i] ? [...COLOURS[mask[i] % COLOURS.length], 130] : [0, 0, 0, 0]));
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
