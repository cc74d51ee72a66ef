// Node.js: objects in a map, JSON there and back, typed arrays, and a sort.
"use strict";
const { createHash } = require("crypto");

let state = 11;
function chance(limit) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state % limit;
}

function digest(text) {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

const COUNT = 700000;
const people = new Map();
for (let id = 0; id < COUNT; id++) {
  people.set(id, { id, name: "n" + chance(900).toString(36), scores: [chance(1000), chance(1000), chance(1000)] });
}
console.log("people", people.size);

const byName = new Map();
for (const person of people.values()) {
  if (!byName.has(person.name)) byName.set(person.name, []);
  byName.get(person.name).push(person.id);
}
console.log("names", byName.size, digest(JSON.stringify([...byName.entries()].sort((a, b) => (a[0] < b[0] ? -1 : 1)))));

const text = JSON.stringify([...people.values()]);
console.log("json", text.length, digest(text));
const again = JSON.parse(text);
const ranks = Float64Array.from(again, (person) => person.scores[0] * COUNT + person.id).sort();
console.log("ranks", again.length, digest(ranks.join()));

const numbers = new Float64Array(8000000).map(() => chance(1 << 30) / 1024);
numbers.sort();
console.log("numbers", numbers[0], numbers[numbers.length - 1], digest(Buffer.from(numbers.buffer)));
