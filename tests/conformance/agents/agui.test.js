// The official client of AG-UI.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { HttpAgent, runHttpRequest, transformHttpEventStream } from "@ag-ui/client";

import { cutting } from "./cutting.js";
import { cancel, cutAfter, healing, inTurn, runOf, SERVER, told, until } from "./trials.js";

let proxy;
let whole;

before(async () => {
  proxy = await cutting(SERVER);
  whole = await turn("look it up");
});

after(() => proxy.close());

/** Run one turn; what it came to, and the events it was told by. */
async function turn(text, { headers = {}, fetch = globalThis.fetch, url, watch } = {}) {
  const threadId = `agui-${crypto.randomUUID()}`;
  const agent = new HttpAgent({ url: `${url ?? proxy.url}/agui`, headers, fetch, threadId });
  agent.addMessage({ id: "user-1", role: "user", content: text });
  return { agent, threadId, ...(await outcome(agent, () => agent.runAgent({}, watch?.(agent)))) };
}

async function outcome(agent, act) {
  const events = [];
  let error;
  const { unsubscribe } = agent.subscribe({
    onEvent: ({ event }) => {
      events.push(event);
    },
    onRunFailed: (failure) => {
      error = failure.error;
    },
  });
  await act().catch((raised) => {
    error ??= raised;
  });
  unsubscribe();
  const { threadId } = agent;
  return { events: told(events, threadId), messages: told(agent.messages, threadId), error };
}

/** The same client, which can be told of a turn that is under way, as its base class offers. */
class ReturningAgent extends HttpAgent {
  connect({ threadId }) {
    const url = new URL(`/agui/${encodeURIComponent(threadId)}/stream`, this.url);
    const signal = this.abortController.signal;
    return transformHttpEventStream(
      runHttpRequest(() => this.fetch(url.href, { headers: { ...this.headers }, signal })),
    );
  }
}

test("a whole turn: text, two calls of which one fails, and text", () => {
  assert.equal(whole.error, undefined);
  const [user, first, ...rest] = whole.messages;
  assert.equal(user.role, "user");
  assert.equal(first.content, "Let me look that up: žluťoučký 🐎.");
  assert.deepEqual(
    first.toolCalls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]),
    [
      ["population", { city: "Lund" }],
      ["weather", { city: "Lund" }],
    ],
  );
  const results = rest.filter((message) => message.role === "tool");
  assert.equal(results.length, 2);
  assert.ok(results.some((message) => message.content.includes("94393")));
  assert.ok(results.some((message) => message.content.includes("no station in Lund")));
  const last = rest.at(-1);
  assert.equal(last.role, "assistant");
  assert.equal(last.content, "Lund has 94393 people, and the weather is not known. 你好");
  assert.equal(whole.events[0].type, "RUN_STARTED");
  assert.equal(whole.events.at(-1).type, "RUN_FINISHED");
});

test("cut at every frame in turn and healed, it is the same turn", async () => {
  const count = whole.events.length;
  assert.ok(count > 25, `${count} events`);
  await inTurn(count, async (n) => {
    const cut = await turn("look it up", { headers: cutAfter(n), fetch: healing() });
    assert.equal(cut.error, undefined, `cut after ${n}`);
    assert.deepEqual(sorted(cut), sorted(whole), `cut after ${n}`);
  });
});

test("cut after each single frame, it is the same turn", async () => {
  const cut = await turn("look it up", { headers: { "x-cut-each": "1" }, fetch: healing() });
  assert.equal(cut.error, undefined);
  assert.deepEqual(sorted(cut), sorted(whole));
});

test("without healing a cut is a loss, so the trial means something", async () => {
  const cut = await turn("look it up", { headers: cutAfter(8) });
  assert.equal(cut.events.length, 8);
  assert.notDeepEqual(cut.messages, whole.messages);
});

test("lines that end with CRLF break this client, and not behind healingFetch", async () => {
  const broken = await turn("look it up", { headers: { "x-crlf": "1" } });
  assert.ok(broken.error, "it took CRLF");
  const mended = await turn("look it up", { headers: { "x-crlf": "1" }, fetch: healing() });
  assert.equal(mended.error, undefined);
  assert.deepEqual(sorted(mended), sorted(whole));
});

test("a page that is loaded again in the midst of a turn has all of it", async () => {
  let left;
  const leaves = (agent) => ({
    onTextMessageContentEvent: ({ textMessageBuffer }) => {
      left = textMessageBuffer;
      agent.abortRun();
    },
  });
  const { threadId } = await turn("look it up", { watch: leaves });
  assert.ok(left.length < 20, "it was left in the midst of the first text");
  const agent = new ReturningAgent({ url: `${proxy.url}/agui`, threadId, fetch: healing() });
  const { messages, error } = await outcome(agent, () => agent.connectAgent());
  assert.equal(error, undefined);
  const told = whole.messages.filter((message) => message.role !== "user");
  assert.deepEqual(sorted({ messages }).messages, sorted({ messages: told }).messages);
  assert.equal((await runOf(threadId)).state, "completed");
});

for (const [text, type] of [
  ["long text", "TEXT_MESSAGE_CONTENT"],
  ["long tool", "TOOL_CALL_END"],
]) {
  test(`a turn that is cancelled ends clean: ${text}`, async () => {
    const stops = (agent) => ({
      onEvent: async ({ event }) => {
        if (event.type === type) cancel((await runOf(agent.threadId)).id).catch(() => {});
      },
    });
    const { error, events, threadId } = await turn(text, { watch: stops });
    assert.equal(error, undefined);
    const last = events.at(-1);
    assert.equal(last.type, "RUN_FINISHED");
    assert.equal(last.outcome.type, "cancelled");
    await until(async () => (await runOf(threadId)).state === "cancelled", "cancelled");
  });
}

test("a turn that fails says so", async () => {
  const { events } = await turn("broken");
  assert.equal(events.at(-1).type, "RUN_ERROR");
});

test("a conversation goes on", async () => {
  const { agent } = await turn("look it up");
  agent.addMessage({ id: "user-2", role: "user", content: "how often" });
  const { error } = await outcome(agent, () => agent.runAgent());
  assert.equal(error, undefined);
  assert.equal(agent.messages.at(-1).content, "You asked 2 times.");
});

test("leaving detaches: the turn goes on without its watcher", async () => {
  const leaves = (agent) => ({
    onRunStartedEvent: () => {
      agent.abortRun();
    },
  });
  const { threadId } = await turn("look it up", { watch: leaves, url: SERVER });
  await until(async () => (await runOf(threadId))?.state === "completed", "completed");
});

/** Calls that run at the same time may be over in either order. */
function sorted({ messages, events }) {
  const of = (one) => one.toolCallId ?? "";
  const calls = messages.filter((message) => message.role === "tool");
  calls.sort((a, b) => of(a).localeCompare(of(b)));
  const others = messages.filter((message) => message.role !== "tool");
  const types = events?.map((event) => event.type);
  return { others, calls, types };
}
