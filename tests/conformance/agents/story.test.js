// A page of one's own, with nothing but fetch.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { fields, Frames } from "../../../clients/js/src/frames.js";
import { cutting } from "./cutting.js";
import { cutAfter, healing, inTurn, SERVER, told } from "./trials.js";

const TEXT =
  "Let me look that up: žluťoučký 🐎." +
  "Lund has 94393 people, and the weather is not known. 你好";

let proxy;

before(async () => {
  proxy = await cutting(SERVER);
});
after(() => proxy.close());

async function turn(more = {}, headers = {}, fetch = globalThis.fetch) {
  const response = await fetch(`${proxy.url}/mcp/chat/stream`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ messages: [{ role: "user", content: "look it up" }], ...more }),
  });
  assert.equal(response.status, 200);
  const frames = new Frames();
  const events = [];
  for await (const chunk of response.body) {
    for (const found of frames.push(chunk)) {
      if ("bytes" in found) events.push(JSON.parse(fields(found.bytes).data));
    }
  }
  return told(events, events.find((event) => event.thread).thread);
}

/** Calls that run at the same time may be over in either order. */
const sorted = (events) => events.filter((event) => event.type !== "tool_progress");

function checked(events) {
  let text = "";
  for (const event of events.filter((one) => one.type === "text_chunk")) {
    assert.equal(event.position, [...text].length);
    text += event.chunk;
    if ("accumulated" in event) assert.equal(event.accumulated, text);
  }
  assert.equal(text, TEXT);
  const { type, totalText, textLength } = events.at(-1);
  assert.deepEqual([type, totalText, textLength], ["complete", TEXT, [...TEXT].length]);
  const over = events.filter((one) => one.type === "tool_progress" && one.status !== "executing");
  assert.deepEqual(over.map((one) => one.status).toSorted(), ["completed", "failed"]);
}

test("a turn, with all of the text so far and without", async () => {
  const events = await turn();
  checked(events);
  assert.ok(events.some((event) => "accumulated" in event));
  const plain = await turn({ accumulated: false });
  checked(plain);
  assert.ok(!plain.some((event) => "accumulated" in event));
});

test("cut at every frame in turn and healed, it is the same turn", async () => {
  const whole = await turn({ accumulated: false });
  assert.ok(whole.length > 15, `${whole.length} events`);
  await inTurn(whole.length, async (n) => {
    const cut = await turn({ accumulated: false }, cutAfter(n), healing());
    assert.deepEqual(sorted(cut), sorted(whole), `cut after ${n}`);
    assert.equal(cut.length, whole.length);
  });
});

test("the text so far is right whatever was cut", async () => {
  const { length } = await turn();
  await inTurn(length, async (n) => {
    checked(await turn({}, cutAfter(n), healing()));
  });
  checked(await turn({}, { "x-cut-each": "1" }, healing()));
});
