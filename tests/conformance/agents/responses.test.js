// The official client of OpenAI.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import OpenAI from "openai";

import { cutting } from "./cutting.js";
import { cutAfter, healing, inTurn, SERVER, told, until } from "./trials.js";

let proxy;
let whole;
let model;

before(async () => {
  proxy = await cutting(SERVER);
  const models = await client().models.list();
  model = models.data[0].id;
  whole = await collected(await ask("look it up"));
});

after(() => proxy.close());

function client({ headers = {}, fetch = globalThis.fetch, url = proxy.url } = {}) {
  const baseURL = `${url}/v1`;
  return new OpenAI({ apiKey: "none", baseURL, defaultHeaders: headers, fetch, maxRetries: 0 });
}

function ask(input, options = {}) {
  const { signal, ...how } = options;
  return client(how).responses.create({ model, input, stream: true, background: true }, { signal });
}

async function collected(stream, events = []) {
  for await (const event of stream) events.push(event);
  return events;
}

const numbers = (events) => events.map((event) => event.sequence_number);

/** Calls that run at the same time may be over in either order. */
const types = (events) =>
  events.map((event) => event.type).filter((type) => !type.includes("mcp_call."));

const final = (events) => told(events.at(-1).response.output);

test("a whole turn: text, two calls of which one fails, and text", () => {
  assert.equal(whole[0].type, "response.created");
  const { type, response } = whole.at(-1);
  assert.equal(type, "response.completed");
  assert.equal(response.status, "completed");
  const said = response.output.filter((item) => item.type === "message");
  assert.deepEqual(
    said.map((item) => item.content[0].text),
    [
      "Let me look that up: žluťoučký 🐎.",
      "Lund has 94393 people, and the weather is not known. 你好",
    ],
  );
  const [population, weather] = response.output.filter((item) => item.type === "mcp_call");
  assert.equal(population.name, "population");
  assert.ok(population.output.includes("94393"));
  assert.equal(weather.name, "weather");
  assert.match(JSON.stringify(weather.error), /no station in Lund/);
  const sorted = numbers(whole).toSorted((a, b) => a - b);
  assert.deepEqual(numbers(whole), sorted);
  assert.equal(new Set(sorted).size, sorted.length);
});

test("left after every event in turn, it is gone on with by starting_after", async () => {
  await inTurn(whole.length - 1, async (n) => {
    const events = [];
    const stream = await ask("look it up");
    for await (const event of stream) {
      events.push(event);
      if (events.length === n) break;
    }
    const { id } = events[0].response;
    const rest = await client().responses.retrieve(id, {
      stream: true,
      starting_after: events.at(-1).sequence_number,
    });
    await collected(rest, events);
    assert.deepEqual(types(events), types(whole), `left after ${n}`);
    assert.equal(new Set(numbers(events)).size, events.length);
    assert.deepEqual(final(events), final(whole));
  });
});

test("cut at every frame in turn and healed, it is the same turn", async () => {
  await inTurn(whole.length, async (n) => {
    const headers = cutAfter(n);
    const events = await collected(await ask("look it up", { headers, fetch: healing() }));
    assert.deepEqual(types(events), types(whole), `cut after ${n}`);
    assert.equal(new Set(numbers(events)).size, events.length);
    assert.deepEqual(final(events), final(whole));
  });
});

test("without healing a cut is a loss, so the trial means something", async () => {
  const events = [];
  const stream = await ask("look it up", { headers: cutAfter(8) });
  await collected(stream, events).catch(() => {});
  assert.equal(events.length, 8);
});

test("the accumulating client has it all", async () => {
  const stream = client().responses.stream({ model, input: "look it up" });
  const response = await stream.finalResponse();
  assert.equal(response.status, "completed");
  assert.ok(response.output_text.endsWith("is not known. 你好"));
});

test("an answer that is not streamed", async () => {
  const response = await client().responses.create({ model, input: "look it up" });
  assert.equal(response.status, "completed");
  assert.ok(response.output_text.endsWith("is not known. 你好"));
});

test("work in the background is looked at later", async () => {
  const begun = await client().responses.create({ model, input: "look it up", background: true });
  assert.match(begun.status, /^(queued|in_progress|completed)$/);
  let response;
  await until(async () => {
    response = await client().responses.retrieve(begun.id);
    return response.status === "completed";
  }, "completed");
  assert.ok(response.output_text.endsWith("is not known. 你好"));
});

for (const [asked, type] of [
  ["long text", "response.output_text.delta"],
  ["long tool", "response.mcp_call.in_progress"],
]) {
  test(`a turn that is cancelled ends clean: ${asked}`, async () => {
    let id;
    const events = [];
    for await (const event of await ask(asked)) {
      events.push(event);
      id ??= event.response?.id;
      if (event.type === type && events.at(-2).type !== type) await client().responses.cancel(id);
    }
    assert.equal(events.at(-1).type, "response.incomplete");
    assert.equal(events.at(-1).response.status, "cancelled");
    await until(async () => (await client().responses.retrieve(id)).status === "cancelled", "over");
  });
}

test("a conversation goes on after an answer", async () => {
  const first = await client().responses.create({ model, input: "look it up" });
  const second = await client().responses.create({
    model,
    input: "how often",
    previous_response_id: first.id,
  });
  assert.equal(second.output_text, "You asked 2 times.");
  assert.equal(second.conversation.id, first.conversation.id);
});

test("leaving detaches: the turn goes on without its watcher", async () => {
  const controller = new AbortController();
  let id;
  for await (const event of await ask("look it up", { signal: controller.signal, url: SERVER })) {
    id = event.response.id;
    break;
  }
  controller.abort();
  await until(async () => (await client().responses.retrieve(id)).status === "completed", "over");
});
