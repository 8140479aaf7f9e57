// A file's content to a raw picture: its kind by its first bytes, its orientation by its EXIF.
import { decodeDicom, isDicom } from "./dicom.js";
import { Fault } from "./fault.js";
import { isJpeg, openJpeg } from "./jpeg.js";
import { decodePng, isPng } from "./png.js";
import { isColoured } from "./recipe.js";

const COLOUR_SIDE = 32;
const SHOWN_SIDE = 480;

// Returns width, height, planes (one or three), and what is known: aspect, modality, caution, isColoured; `display()`
// gives a finer picture to show, where the one that is read is small.
export async function readPicture(bytes, card) {
  try {
    return await decoded(bytes, card);
  } catch (error) {
    throw error instanceof Fault ? error : new Fault("damaged"); // a reader ran past the end
  }
}

async function decoded(bytes, { recipe, target }) {
  if (!bytes.length) throw new Fault("empty");
  if (isJpeg(bytes)) return ofJpeg(bytes, recipe, target);
  if (isPng(bytes)) {
    const raw = await decodePng(bytes);
    return { ...upright(raw, raw.exif), isColoured: isColoured(raw) };
  }
  if (isDicom(bytes)) return decodeDicom(bytes);
  throw new Fault("no_picture");
}

// As Pillow's `draft`: decoded smaller where no later step reads the pixels that are left out.
function ofJpeg(bytes, recipe, target) {
  const file = openJpeg(bytes);
  const isWhole = target === "masks" || recipe.circle_crop;
  const scaleFor = (side) => {
    const most = Math.min(Math.floor(file.width / side), Math.floor(file.height / side));
    return [8, 4, 2].find((scale) => most >= scale) ?? 1;
  };
  const isGrey = recipe.colour === "grey";
  const scale = isWhole ? 1 : scaleFor(2 * recipe.image_size);
  const raw = file.decode(scale, isGrey);
  const small = isGrey && file.components === 3 ? file.decode(scaleFor(COLOUR_SIDE), false) : null;
  const display = () => upright(file.decode(Math.min(scale, scaleFor(SHOWN_SIDE)), isGrey), file.exif);
  return { ...upright(raw, file.exif), isColoured: small !== null && isColoured(small), display };
}

function orientationOf(exif) {
  if (!exif || exif.length < 14) return 1;
  const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength);
  const isLittle = exif[0] === 0x49;
  const at = view.getUint32(4, isLittle);
  if (at + 2 > exif.length) return 1;
  for (let i = 0, entry = at + 2; i < view.getUint16(at, isLittle) && entry + 12 <= exif.length; i++, entry += 12)
    if (view.getUint16(entry, isLittle) === 0x0112) return view.getUint16(entry + 8, isLittle);
  return 1;
}

function upright(raw, exif) {
  const turn = orientationOf(exif);
  if (turn < 2 || turn > 8) return raw;
  const { width: w, height: h } = raw;
  const [width, height] = turn >= 5 ? [h, w] : [w, h];
  const from = {
    2: (x, y) => [w - 1 - x, y], 3: (x, y) => [w - 1 - x, h - 1 - y], 4: (x, y) => [x, h - 1 - y],
    5: (x, y) => [y, x], 6: (x, y) => [y, h - 1 - x], 7: (x, y) => [w - 1 - y, h - 1 - x], 8: (x, y) => [w - 1 - y, x],
  }[turn]; // prettier-ignore
  const planes = raw.planes.map((plane) => {
    const made = new plane.constructor(plane.length);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        const [column, row] = from(x, y);
        made[y * width + x] = plane[row * w + column];
      }
    return made;
  });
  return { ...raw, width, height, planes };
}
