import assert from "node:assert/strict";
import { test } from "node:test";

import { fields, Frames } from "../src/frames.js";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** What is found, in words, when the bytes come in chunks of `size`. */
function found(text, size = Infinity) {
  const bytes = typeof text === "string" ? encoder.encode(text) : text;
  const frames = new Frames();
  const all = [];
  for (let at = 0; at < bytes.length; at += size) {
    all.push(...frames.push(bytes.subarray(at, at + size)));
  }
  return all.map((one) => ("bytes" in one ? { ...one, bytes: decoder.decode(one.bytes) } : one));
}

test("frames are whole, and comments and times are told apart", () => {
  assert.deepEqual(found(": hello\nretry: 20\nid: 1\ndata: a\n\n: keep-alive\ndata: b\n\n:end\n"), [
    { comment: "hello" },
    { retry: 20 },
    { bytes: "id: 1\ndata: a\n\n", id: "1" },
    { comment: "keep-alive" },
    { bytes: "data: b\n\n", id: undefined },
    { comment: "end" },
  ]);
});

test("it is the same however the bytes are cut, also within a character", () => {
  const text = "id: 1\r\ndata: žluťoučký 🐎\r\n\r\n: x\r\nid:2\rdata: y\r\rdata: z\n\n";
  const expected = found(text);
  assert.equal(expected.length, 4);
  assert.equal(expected[0].bytes, "id: 1\ndata: žluťoučký 🐎\n\n");
  for (let size = 1; size < 30; size++) assert.deepEqual(found(text, size), expected, `${size}`);
});

test("a frame that ends in CR does not wait for an LF", () => {
  const frames = new Frames();
  assert.equal(frames.push(encoder.encode("data: a\r\n\r")).length, 1);
  assert.deepEqual(frames.push(encoder.encode("\n")), []);
  assert.equal(frames.push(encoder.encode("\n")).length, 0);
});

test("what is not ended is not told", () => {
  assert.deepEqual(found("data: a\n"), []);
  assert.deepEqual(found("data: a\n\ndata: b").length, 1);
  assert.deepEqual(found(": en"), []);
});

test("a byte order mark is no part of the first line, and is kept elsewhere", () => {
  const mark = [0xef, 0xbb, 0xbf];
  const one = encoder.encode("id: 1\n\n");
  const frames = new Frames();
  const [first] = frames.push(Uint8Array.from([...mark, ...one]));
  assert.equal(first.id, "1");
  const [second] = frames.push(Uint8Array.from([...mark, ...one]));
  assert.equal(second.id, undefined);
});

test("an id is what the standard takes for one", () => {
  assert.equal(found("id\n\n")[0].id, "");
  assert.equal(found("id:  x\n\n")[0].id, " x");
  assert.equal(found("id: a\0b\n\n")[0].id, undefined);
  assert.equal(found("id: 1\nid: 2\n\n")[0].id, "2");
  assert.equal(found("id: 1\n\ndata: b\n\n")[1].id, undefined);
});

test("a time is digits, and not too many", () => {
  for (const value of ["", "-1", "1.5", "x", "1234567890123"]) {
    assert.deepEqual(found(`retry: ${value}\n`), [], value);
  }
});

test("a frame has a bound", () => {
  const frames = new Frames(100);
  assert.equal(frames.push(encoder.encode(`data: ${"x".repeat(90)}\n\n`)).length, 1);
  assert.throws(() => frames.push(encoder.encode(`data: ${"x".repeat(100)}`)), /exceeds 100/);
});

test("a frame larger than the first buffer arrives whole", () => {
  const data = "ž".repeat(50_000);
  assert.equal(found(`data: ${data}\n\n`, 777)[0].bytes, `data: ${data}\n\n`);
});

test("a frame's fields", () => {
  const one = fields(encoder.encode("id: 7\nevent: x\ndata: a\ndata\ndata:  b\n\n"));
  assert.deepEqual(one, { event: "x", id: "7", data: "a\n\n b" });
  assert.equal(fields(encoder.encode("id: 1\n\n")).data, undefined);
  assert.equal(fields(encoder.encode("data\n\n")).data, "");
  assert.deepEqual(fields(encoder.encode("data: a\n\n")), { event: "message", id: "", data: "a" });
});
