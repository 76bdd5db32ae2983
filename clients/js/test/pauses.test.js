import assert from "node:assert/strict";
import { test } from "node:test";

import { pause, retryAfter } from "../src/pauses.js";

const plain = { tries: 0, base: 200, longest: 30_000, chance: 1 };

test("pauses double up to a bound, and chance takes a part of them", () => {
  const all = [0, 1, 2, 7, 8, 1000].map((tries) => pause({ ...plain, tries }));
  assert.deepEqual(all, [200, 400, 800, 25_600, 30_000, 30_000]);
  assert.equal(pause({ ...plain, tries: 1, chance: 0.25 }), 100);
  assert.equal(pause({ ...plain, chance: 0 }), 0);
});

test("what the server names is the first pause", () => {
  assert.equal(pause({ ...plain, base: 1000, tries: 2 }), 4000);
});

test("who is invited comes when told, and doubles only if that fails", () => {
  assert.equal(pause({ ...plain, base: 500, isInvited: true, chance: 0 }), 500);
  assert.equal(pause({ ...plain, base: 500, isInvited: true, tries: 1, chance: 0.5 }), 500);
  assert.equal(pause({ ...plain, base: 1e8, isInvited: true }), 30_000);
});

test("Retry-After is a lower bound, whatever the own ones are", () => {
  assert.equal(pause({ ...plain, asked: 60_000, chance: 0 }), 60_000);
  assert.equal(pause({ ...plain, asked: 60_000, chance: 0.5 }), 60_100);
});

test("Retry-After is seconds or a date", () => {
  const now = Date.UTC(2026, 0, 1, 12, 0, 0);
  assert.equal(retryAfter("3", now), 3000);
  assert.equal(retryAfter(" 0 ", now), 0);
  assert.equal(retryAfter("Thu, 01 Jan 2026 12:00:05 GMT", now), 5000);
  assert.equal(retryAfter("Thu, 01 Jan 2026 11:00:00 GMT", now), 0);
  for (const header of [null, "", "soon", "-5", "1.5", "99999999999"]) {
    assert.equal(retryAfter(header, now), undefined, String(header));
  }
});
