// The official client of the AI SDK: the core of useChat.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { AbstractChat, DefaultChatTransport } from "ai";

import { cutting } from "./cutting.js";
import { cancel, cutAfter, healing, inTurn, runOf, SERVER, told, until } from "./trials.js";

let proxy;
let whole;

before(async () => {
  proxy = await cutting(SERVER);
  whole = await turn("look it up");
});

after(() => proxy.close());

/** What a framework's binding adds: where the messages are kept. */
class Chat extends AbstractChat {
  constructor({ messages = [], ...init }) {
    const state = {
      status: "ready",
      error: undefined,
      messages,
      pushMessage: (message) => {
        state.messages = [...state.messages, message];
      },
      popMessage: () => {
        state.messages = state.messages.slice(0, -1);
      },
      replaceMessage: (at, message) => {
        state.messages = state.messages.with(at, structuredClone(message));
      },
      snapshot: structuredClone,
    };
    super({ ...init, state });
  }
}

function chatting({ id, headers = {}, fetch = globalThis.fetch, ...more } = {}) {
  const api = `${proxy.url}/api/chat`;
  const transport = new DefaultChatTransport({ api, headers, fetch });
  const failures = [];
  const ends = [];
  const chat = new Chat({
    id: id ?? `aisdk-${crypto.randomUUID()}`,
    transport,
    onError: (error) => failures.push(error),
    onFinish: ({ isAbort, finishReason }) => ends.push({ isAbort, finishReason }),
    ...more,
  });
  return { chat, failures, ends };
}

async function turn(text, options = {}) {
  const { chat, failures, ends } = chatting(options);
  await chat.sendMessage({ text });
  return { chat, failures, ends, answer: answer(chat) };
}

/** The answer, without what differs from run to run. */
function answer(chat) {
  const last = chat.messages.at(-1);
  return last?.role === "assistant" ? told(last, chat.id) : undefined;
}

const text = (message) => message.parts.filter((part) => part.type === "text");

/** What there is of the answer. */
function parts(chat) {
  const last = chat.messages.at(-1);
  return last?.role === "assistant" ? last.parts : [];
}

const hasText = (chat) => () => parts(chat).some((part) => part.type === "text" && part.text);

test("a whole turn: text, two calls of which one fails, and text", () => {
  assert.deepEqual(whole.failures, []);
  assert.equal(whole.chat.status, "ready");
  const said = text(whole.answer).map((part) => [part.text, part.state]);
  assert.deepEqual(said, [
    ["Let me look that up: žluťoučký 🐎.", "done"],
    ["Lund has 94393 people, and the weather is not known. 你好", "done"],
  ]);
  const [population, weather] = whole.answer.parts.filter((part) => part.type === "dynamic-tool");
  assert.deepEqual(
    [population.toolName, population.input, population.state, population.output],
    ["population", { city: "Lund" }, "output-available", { city: "Lund", people: 94393 }],
  );
  assert.deepEqual([weather.toolName, weather.state], ["weather", "output-error"]);
  assert.match(weather.errorText, /no station in Lund/);
  assert.equal(whole.chat.messages.length, 2);
});

test("cut at every frame in turn and healed, it is the same answer", async () => {
  const response = await fetch(`${SERVER}/api/chat/${whole.chat.id}/stream`);
  assert.equal(response.status, 204);
  const count = await countFrames();
  assert.ok(count > 25, `${count} frames`);
  await inTurn(count, async (n) => {
    const cut = await turn("look it up", { headers: cutAfter(n), fetch: healing() });
    assert.deepEqual(cut.failures, [], `cut after ${n}`);
    assert.deepEqual(ordered(cut.answer), ordered(whole.answer), `cut after ${n}`);
    assert.equal(cut.chat.messages.length, 2);
  });
});

test("cut after each single frame, it is the same answer", async () => {
  const cut = await turn("look it up", { headers: { "x-cut-each": "1" }, fetch: healing() });
  assert.deepEqual(cut.failures, []);
  assert.deepEqual(ordered(cut.answer), ordered(whole.answer));
});

test("without healing a cut is a loss, so the trial means something", async () => {
  const cut = await turn("look it up", { headers: cutAfter(12) });
  assert.ok(text(cut.answer).length > 0);
  assert.notDeepEqual(ordered(cut.answer), ordered(whole.answer));
});

test("a page that is loaded again in the midst of a turn has all of it", async () => {
  const first = chatting();
  const sending = first.chat.sendMessage({ text: "look it up" });
  await until(hasText(first.chat), "some text");
  // The page is gone: nobody stops anything, the connection is just not there any more.
  const { id } = first.chat;
  const messages = first.chat.messages.slice(0, 1);
  const second = chatting({ id, messages, fetch: healing() });
  await second.chat.resumeStream();
  assert.deepEqual(second.failures, []);
  assert.deepEqual(ordered(answer(second.chat)), ordered(whole.answer));
  assert.equal(second.chat.messages.length, 2);
  await sending;
  const third = chatting({ id, messages });
  await third.chat.resumeStream();
  assert.equal(third.chat.messages.length, 1, "nothing is under way any more");
});

for (const [asked, reached] of [
  ["long text", (part) => part.type === "text" && part.text.length > 4],
  ["long tool", (part) => part.state === "input-available"],
]) {
  test(`a turn that is cancelled ends clean: ${asked}`, async () => {
    const { chat, failures, ends } = chatting();
    const sending = chat.sendMessage({ text: asked });
    await until(() => parts(chat).some(reached), "under way");
    await cancel((await runOf(chat.id)).id);
    await sending;
    assert.deepEqual(failures, []);
    assert.equal(chat.status, "ready");
    assert.equal(ends.length, 1);
    for (const part of text(chat.messages.at(-1))) assert.equal(part.state, "done");
    await until(async () => (await runOf(chat.id)).state === "cancelled", "cancelled");
  });
}

test("a page stops a turn by its own endpoint", async () => {
  const { chat, failures } = chatting();
  const sending = chat.sendMessage({ text: "long text" });
  await until(hasText(chat), "some text");
  const response = await fetch(`${SERVER}/api/chat/${chat.id}/stop`, { method: "POST" });
  assert.ok(response.ok, `${response.status}`);
  await sending;
  assert.deepEqual(failures, []);
  assert.equal((await runOf(chat.id)).state, "cancelled");
});

test("leaving detaches: the turn goes on without its watcher", async () => {
  const { chat } = chatting();
  const sending = chat.sendMessage({ text: "look it up" });
  await until(hasText(chat), "some text");
  await chat.stop();
  await sending;
  await until(async () => (await runOf(chat.id)).state === "completed", "completed");
});

test("a turn that fails says so", async () => {
  const { failures, chat } = await turn("broken");
  assert.equal(failures.length, 1);
  assert.equal(chat.status, "error");
});

test("a conversation goes on, and lies on the server", async () => {
  const { chat } = await turn("look it up");
  await chat.sendMessage({ text: "how often" });
  assert.equal(chat.messages.length, 4);
  assert.deepEqual(text(chat.messages[3]).map((part) => part.text), ["You asked 2 times."]);
  const response = await fetch(`${SERVER}/api/chat/${chat.id}`);
  assert.equal(response.status, 200);
  const { messages } = await response.json();
  const roles = messages.map((message) => message.role);
  assert.deepEqual(roles, ["user", "assistant", "user", "assistant"]);
  const expected = chat.messages.map((message) => text(message).map((part) => part.text));
  assert.deepEqual(messages.map((message) => text(message).map((part) => part.text)), expected);
});

/** How many frames a turn is told by. */
async function countFrames() {
  let count = 0;
  const counting = async (...asked) => {
    const response = await fetch(...asked);
    const [one, other] = response.body.tee();
    new Response(other).text().then((told) => {
      count = told.split("\n\n").length - 1;
    });
    return new Response(one, response);
  };
  await turn("look it up", { fetch: counting });
  return count;
}

/** Calls that run at the same time may be over in either order. */
function ordered(message) {
  const parts = (message?.parts ?? []).filter((part) => !part.type.startsWith("data-"));
  return { ...message, parts };
}
