// The rows that the page makes of files, as JSON lines: node rows.mjs ASSETS < {"recipe": ..., "files": [...]}
import { readFileSync } from "node:fs";

const [assets] = process.argv.slice(2);
const { readPicture } = await import(`${assets}/picture.js`);
const { findings, prepared } = await import(`${assets}/recipe.js`);
const { card, files } = JSON.parse(readFileSync(0, "utf8"));
for (const file of files) {
  try {
    const raw = await readPicture(new Uint8Array(readFileSync(file)), card);
    const { rows, way } = prepared(raw, card.recipe);
    const found = findings(raw, rows, card.recipe, card.modalities);
    console.log(JSON.stringify({ rows: Buffer.from(rows).toString("base64"), way, findings: found.map(([key]) => key) }));
  } catch (error) {
    if (error.key === undefined) throw error;
    console.log(JSON.stringify({ fault: error.key, values: error.values }));
  }
}
