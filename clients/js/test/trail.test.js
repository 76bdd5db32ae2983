import assert from "node:assert/strict";
import { test } from "node:test";

import { Trail } from "../src/trail.js";

const frame = (text, id) => ({ bytes: new TextEncoder().encode(text), id });

test("what comes again before the next id is known", () => {
  const trail = new Trail();
  assert.equal(trail.knows(frame("1", "1")), false);
  assert.equal(trail.knows(frame("a")), false);
  assert.equal(trail.knows(frame("b")), false);
  trail.rewind();
  assert.equal(trail.knows(frame("a")), true);
  assert.equal(trail.knows(frame("b")), true);
  assert.equal(trail.knows(frame("b")), false);
  assert.equal(trail.knows(frame("2", "2")), false);
  assert.equal(trail.knows(frame("a")), false);
});

test("without a cut nothing is known, however alike", () => {
  const trail = new Trail();
  for (let n = 0; n < 3; n++) assert.equal(trail.knows(frame("tick")), false);
});

test("what was said once only does not hide what comes again", () => {
  const trail = new Trail();
  for (const text of ["tick", "a", "tock"]) trail.knows(frame(text));
  trail.rewind();
  assert.equal(trail.knows(frame("a")), true);
  assert.equal(trail.knows(frame("new")), false);
  trail.rewind();
  assert.equal(trail.knows(frame("a")), true);
  assert.equal(trail.knows(frame("new")), true);
});

test("it is bounded, until there is an id again", () => {
  const trail = new Trail();
  assert.equal(trail.isEmpty, true);
  for (let n = 0; n < 1001; n++) trail.knows(frame(`${n}`));
  assert.equal(trail.isEmpty, false);
  assert.equal(trail.isWhole, false);
  trail.knows(frame("x", "1"));
  assert.equal(trail.isWhole, true);
  assert.equal(trail.isEmpty, true);
  trail.knows(frame("y".repeat(1024 * 1024 + 1)));
  assert.equal(trail.isWhole, false);
});
