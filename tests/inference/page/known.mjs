// The known picture, and whether outputs are those stored: node known.mjs ASSETS < {"channels", "side", "known", "given": [...]}
import { readFileSync } from "node:fs";

const { isKnown, knownRows } = await import(`${process.argv[2]}/known.js`);
const { channels, side, known, given } = JSON.parse(readFileSync(0, "utf8"));
const read = (values) => ({ data: Float32Array.from(values, (one) => one ?? NaN) });
const found = given.map((outputs) => isKnown(Object.fromEntries(Object.entries(outputs).map(([name, values]) => [name, read(values)])), known));
console.log(JSON.stringify({ rows: Buffer.from(knownRows(channels, side)).toString("base64"), found }));
