import assert from "node:assert/strict";

import { healingFetch } from "../../../clients/js/src/index.js";

export const SERVER = process.env.TAILRACE_URL;

/** Heals, and soon: the server's own pauses would make a test of minutes. */
export const healing = (options = {}) => healingFetch({ longestPause: 5, ...options });

/** How the proxy is asked to cut the first connection, after n frames: one way, or the other. */
export const cutAfter = (n) => ({ "x-cut-after": `${n}`, "x-cut-how": n % 2 ? "break" : "end" });

/** So many at a time: the machine is not ours alone. */
export async function inTurn(count, act, width = 8) {
  let next = 1;
  const worker = async () => {
    while (next <= count) await act(next++);
  };
  await Promise.all(Array.from({ length: width }, worker));
}

const MOMENTS = new Set([
  ...["timestamp", "createdAt", "created_at", "completed_at"],
  ...["duration_seconds", "durationSeconds", "executionTime"],
]);

/** A value without what differs from run to run: ids and times. `names` are further ids. */
export function told(value, ...names) {
  let text = JSON.stringify(value, (key, one) => (MOMENTS.has(key) ? undefined : one));
  text = text.replaceAll(/(?<=(run|resp|msg|mcp|rs)_)[a-z2-7]{26}/g, "RUN");
  for (const name of names) text = text.replaceAll(name, "NAME");
  return JSON.parse(text);
}

/** Wait until `done()` is true. */
export async function until(done, what) {
  const ends = Date.now() + 20_000;
  while (!(await done())) {
    assert.ok(Date.now() < ends, `still not ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** The newest run of a conversation. */
export async function runOf(thread) {
  const response = await fetch(`${SERVER}/runs?thread=${encodeURIComponent(thread)}`);
  return (await response.json()).runs[0];
}

export async function cancel(run) {
  const response = await fetch(`${SERVER}/runs/${run}/cancel`, { method: "POST" });
  assert.equal(response.status, 202);
}
