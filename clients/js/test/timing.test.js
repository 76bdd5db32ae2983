import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { summary, Timing } from "../src/timing.js";
import { bytes, cut, frame, serving, STREAM, told, whole } from "./server.js";

const PROGRAM = fileURLToPath(new URL("../bin/tailrace-client.js", import.meta.url));

function ran(...words) {
  return new Promise((resolve) => {
    execFile(process.execPath, [PROGRAM, ...words], (error, stdout, stderr) => {
      resolve({ code: error?.code ?? 0, stdout, stderr });
    });
  });
}

test("a summary", () => {
  assert.deepEqual(summary([10, 20, 50, 51]), { count: 4, first: 10, median: 10, longest: 30 });
  assert.deepEqual(summary([1, 3, 7]), { count: 3, first: 1, median: 3, longest: 4 });
  assert.deepEqual(summary([5]), { count: 1, first: 5, median: undefined, longest: undefined });
  assert.equal(summary([]).first, undefined);
});

test("each event has its time since the request, and since the line before", () => {
  const timing = new Timing();
  assert.deepEqual(timing.push(bytes("id: 1\nevent: x\nda"), 5), []);
  const [line] = timing.push(bytes('ta: {"a":1}\n\n'), 12.34);
  assert.match(line, /^ +12\.3 \+ +12\.3 {2}1 x \{"a":1\}$/);
  const [position] = timing.push(bytes("id: 9\n\n"), 12.34);
  assert.match(position, /id: 9$/);
  const [comment, next] = timing.push(bytes(": ping\ndata: b\n\n"), 20);
  assert.match(comment, /20\.0 \+ +7\.7 {2}: ping$/);
  assert.match(next, /20\.0 \+ +0\.0 {2}- message b$/);
  const said = timing.summary();
  assert.match(said, /^2 events, 53 bytes; comments: 1; first event after 12\.3 ms; median gap 7/);
});

test("lines fit, and cannot play with the terminal", () => {
  const timing = new Timing({ width: 40, isColoured: true });
  const [line] = timing.push(bytes(`data: \x1b[31m${"🐎".repeat(40)}\ndata: b\n\n`), 1);
  assert.equal([...line].length, 40);
  assert.ok(!line.includes("\x1b"));
  assert.ok(line.endsWith("🐎…"));
  const [dim] = timing.push(bytes(": x\n"), 2);
  assert.ok(dim.startsWith("\x1b[2m") && dim.endsWith("\x1b[0m"));
});

test("the program shows a stream", async (t) => {
  const { url, asked } = await serving(t, (request, response) => whole(response, told(0, 2)));
  const headers = ["-H", "Authorization: Bearer a:b"];
  const { code, stdout } = await ran("stream-timing", `${url}/x`, "-d", '{"a":1}', ...headers);
  assert.equal(code, 0);
  assert.match(stdout, /200 OK, text\/event-stream/);
  assert.match(stdout, /  2 text \{"chunk":"žluťoučký 🐎 2"\}/);
  assert.match(stdout, /: end\n2 events, /);
  const [{ method, body, headers: sent }] = asked;
  assert.deepEqual([method, body, sent.authorization], ["POST", '{"a":1}', "Bearer a:b"]);
  assert.equal(sent["content-type"], "application/json");
});

test("the program goes on where it is asked to, or says what has happened", async (t) => {
  const { url } = await serving(t, (request, response) =>
    request.headers["last-event-id"]
      ? whole(response, told(1, 2))
      : cut(response, bytes(`retry: 1\n${frame(1)}`)),
  );
  const plain = await ran("stream-timing", url);
  assert.equal(plain.code, 1);
  assert.match(plain.stdout, /1 event, /);
  assert.match(plain.stderr, /terminated/);
  const healed = await ran("stream-timing", url, "--heal");
  assert.equal(healed.code, 0, healed.stderr);
  assert.match(healed.stdout, /Going on after 1 in/);
  assert.match(healed.stdout, /2 events, /);
});

test("the program says what is no stream, and how it is used", async (t) => {
  const { url } = await serving(t, (request, response) => response.writeHead(404).end("not here"));
  const refused = await ran("stream-timing", url);
  assert.equal(refused.code, 1);
  assert.match(refused.stdout, /404 Not Found[^]*not here/);
  for (const words of [[], ["stream-timing"], ["stream-timing", url, "-H", "x"], ["other", url]]) {
    const { code, stderr } = await ran(...words);
    assert.equal(code, 2, words.join(" "));
    assert.match(stderr, /usage:/);
  }
  assert.match((await ran("--help")).stdout, /usage:/);
});
