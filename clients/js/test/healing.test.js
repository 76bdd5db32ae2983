import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";

import { healingFetch, StreamLost } from "../src/index.js";
import { bytes, cut, FAST, frame, serving, STREAM, told, whole } from "./server.js";

const frames = (last) => Array.from({ length: last }, (_, n) => frame(n + 1)).join("");

const cursor = (request) => Number(request.headers["last-event-id"] ?? 0);

test("cut at any byte, whatever the chunks, everything arrives once", async (t) => {
  const all = told(0, 3);
  const cuts = [...all.keys()];
  const { url, asked } = await serving(t, (request, response) => {
    const [, at, size] = /cut=(\d+)&size=(\d+)/.exec(request.url) ?? [];
    if (at === undefined) return whole(response, told(cursor(request), 3), STREAM, 7);
    const headers = { ...STREAM, "content-location": "/resume" };
    if (size === "0") return cut(response, all.subarray(0, Number(at)), headers);
    // As a proxy does that ends what it has lost: a proper end in the midst of it.
    return whole(response, all.subarray(0, Number(at)), headers, Number(size));
  });
  const fetch = healingFetch(FAST);
  for (const size of [0, 1, 16]) {
    await Promise.all(
      cuts.map(async (at) => {
        const response = await fetch(`${url}/?cut=${at}&size=${size}`);
        assert.equal(await response.text(), frames(3), `cut at ${at}, in chunks of ${size}`);
      }),
    );
  }
  assert.ok(asked.length > 2 * 3 * (all.length - 10));
});

test("a connection that is lost again and again is gone on with each time", async (t) => {
  const { url, asked } = await serving(t, (request, response) => {
    const after = cursor(request);
    const one = told(after, after + 1, "");
    return after < 29 ? cut(response, one) : whole(response, told(after, 30));
  });
  const response = await healingFetch(FAST)(url);
  assert.equal(await response.text(), frames(30));
  assert.equal(asked.length, 30);
});

test("the rest is asked for as the first was, without its body", async (t) => {
  const { url, asked } = await serving(t, (request, response, n) =>
    n === 1 ? cut(response, told(0, 2, "")) : whole(response, told(2, 3)),
  );
  const response = await healingFetch(FAST)(`${url}/api/chat`, {
    method: "POST",
    body: '{"a":1}',
    headers: {
      authorization: "Bearer secret",
      "content-type": "application/json",
      "idempotency-key": "k",
      "x-api-key": "also",
    },
  });
  assert.equal(response.status, 200);
  assert.equal(response.url, `${url}/api/chat`);
  assert.equal(response.headers.get("content-location"), "/resume?format=x");
  assert.equal(await response.text(), frames(3));
  const [first, second] = asked;
  assert.equal(first.body, '{"a":1}');
  assert.equal(second.method, "GET");
  assert.equal(second.url, "/resume?format=x");
  assert.equal(second.body, "");
  const { headers } = second;
  assert.equal(headers["last-event-id"], "2");
  assert.equal(headers.authorization, "Bearer secret");
  assert.equal(headers["x-api-key"], "also");
  assert.equal(headers.accept, "text/event-stream");
  assert.equal(headers["content-type"], undefined);
  assert.equal(headers["idempotency-key"], undefined);
});

test("a Request is taken as well, with its headers and its signal", async (t) => {
  const { url, asked } = await serving(t, (request, response, n) =>
    n === 1 ? cut(response, told(0, 1, "")) : response.writeHead(200, STREAM).flushHeaders(),
  );
  const controller = new AbortController();
  const request = new Request(url, {
    method: "POST",
    body: "{}",
    headers: { authorization: "Bearer secret" },
    signal: controller.signal,
  });
  const reader = (await healingFetch(FAST)(request)).body.getReader();
  await reader.read();
  const rest = reader.read();
  while (asked.length < 2) await new Promise(setImmediate);
  assert.equal(asked[1].headers.authorization, "Bearer secret");
  controller.abort(new Error("enough"));
  await assert.rejects(rest, /enough/);
});

test("a cut before the first frame: from the cursor that the answer names", async (t) => {
  const { url, asked } = await serving(t, (request, response, n) =>
    n === 1
      ? cut(response, bytes(": tailrace\n"), { ...STREAM, "last-event-id": "4" })
      : whole(response, told(4, 6)),
  );
  const response = await healingFetch(FAST)(`${url}?after=latest`);
  assert.equal(await response.text(), frame(5) + frame(6));
  assert.equal(asked[1].headers["last-event-id"], "4");
});

test("other answers are returned as they came", async (t) => {
  const { url } = await serving(t, (request, response) => {
    if (request.url === "/json") {
      return whole(response, bytes("{}"), { ...STREAM, "content-type": "application/json" });
    }
    if (request.url === "/error") return response.writeHead(404, STREAM).end("no");
    if (request.url === "/none") return response.writeHead(204).end();
    const headers = { "content-type": "text/event-stream" };
    if (request.url === "/elsewhere") {
      headers["content-location"] = "http://127.0.0.1:1/resume";
    }
    return whole(response, bytes("data: a\n\n: end\n"), headers);
  });
  const given = [];
  const fetch = healingFetch({
    fetch: async (...all) => given[given.push(await globalThis.fetch(...all)) - 1],
  });
  for (const path of ["/json", "/error", "/none", "/plain", "/elsewhere"]) {
    const response = await fetch(url + path);
    assert.equal(response, given.at(-1), path);
    await response.text();
  }
});

test("no header goes to another origin, by Content-Location or by a redirect", async (t) => {
  const other = await serving(t, (request, response) => {
    return cut(response, told(0, 1, ""), { ...STREAM, "content-location": "/resume" });
  });
  const { url, asked } = await serving(t, (request, response) => {
    if (request.url === "/away") {
      return response.writeHead(307, { location: `${other.url}/stream` }).end();
    }
    if (request.url === "/resume") {
      return response.writeHead(307, { location: `${other.url}/rest` }).end();
    }
    const place = request.url === "/named" ? `${other.url}/resume` : "/resume";
    return cut(response, told(0, 1, ""), { ...STREAM, "content-location": place });
  });
  const init = { headers: { "x-api-key": "secret" } };
  const fetch = healingFetch(FAST);
  // The client's own way: what is not healed fails as ever.
  await assert.rejects((await fetch(`${url}/named`, init)).text(), TypeError);
  assert.equal(other.asked.length, 0);
  await assert.rejects((await fetch(`${url}/away`, init)).text(), TypeError);
  assert.equal(other.asked.length, 1);
  await assert.rejects((await fetch(`${url}/here`, init)).text(), (error) => {
    assert.ok(error instanceof StreamLost);
    assert.match(error.message, /another address/);
    return true;
  });
  assert.equal(other.asked.length, 1);
  assert.equal(asked.filter((one) => one.url === "/resume").length, 1);
});

test("204 is a proper end", async (t) => {
  const { url, asked } = await serving(t, (request, response, n) =>
    n === 1 ? cut(response, told(0, 2, "")) : response.writeHead(204).end(),
  );
  assert.equal(await (await healingFetch(FAST)(url)).text(), frames(2));
  assert.equal(asked[1].headers["last-event-id"], "2");
});

test("a refusal is final, and says why", async (t) => {
  const { url, asked } = await serving(t, (request, response, n) => {
    if (n === 1) return cut(response, told(0, 2, ""));
    const problem = { title: "Forbidden", detail: "The key was revoked." };
    response.writeHead(403, { "content-type": "application/problem+json" });
    return response.end(JSON.stringify(problem));
  });
  const reader = (await healingFetch(FAST)(url)).body.getReader();
  const { value } = await reader.read();
  assert.equal(Buffer.from(value).toString(), frames(2));
  await assert.rejects(reader.read(), (error) => {
    assert.ok(error instanceof StreamLost);
    assert.match(error.message, /403 Forbidden The key was revoked\./);
    assert.equal(error.status, 403);
    assert.equal(error.lastEventId, "2");
    return true;
  });
  assert.equal(asked.length, 2);
});

test("what answers no stream is final", async (t) => {
  const { url } = await serving(t, (request, response, n) =>
    n === 1
      ? cut(response, told(0, 1, ""))
      : whole(response, bytes("<html>"), { "content-type": "text/html" }),
  );
  await assert.rejects((await healingFetch(FAST)(url)).text(), /200 OK no event stream/);
});

test("trouble of the moment is waited out", async (t) => {
  const statuses = [500, 503, 429, 408, 425];
  const { url, asked } = await serving(t, (request, response, n) => {
    if (n === 1) return cut(response, told(0, 1, ""));
    const status = statuses[n - 2];
    if (status) return response.writeHead(status, { "retry-after": "0" }).end();
    return whole(response, told(1, 2));
  });
  assert.equal(await (await healingFetch(FAST)(url)).text(), frames(2));
  assert.equal(asked.length, 2 + statuses.length);
});

test("Retry-After is waited for, and not for ever", async (t) => {
  const { url } = await serving(t, (request, response, n) => {
    if (n === 1) return cut(response, told(0, 1, ""));
    return response.writeHead(503, { "retry-after": n === 2 ? "1" : "86400" }).end();
  });
  const pauses = [];
  const fetch = healingFetch({ ...FAST, onReconnect: (about) => pauses.push(about.pause) });
  await assert.rejects((await fetch(url)).text(), /503/);
  assert.equal(pauses.length, 2);
  assert.ok(pauses[1] >= 1000 && pauses[1] <= 1002, String(pauses));
});

test("a sign of life starts the count anew: what is silent is the work", async (t) => {
  const { url, asked } = await serving(t, (request, response) => {
    if (asked.length === 1) return cut(response, told(0, 1, ""));
    if (asked.length < 8) return cut(response, bytes(": tailrace\n: keep-alive\n"));
    return whole(response, told(1, 2));
  });
  const seen = [];
  const fetch = healingFetch({ ...FAST, tries: 2, onReconnect: (about) => seen.push(about.try) });
  assert.ok((await (await fetch(url)).text()).includes("id: 2"));
  assert.deepEqual(seen, [1, 1, 1, 1, 1, 1, 1]);
});

test("tries are counted, and a frame starts the count anew", async (t) => {
  const { url, asked } = await serving(t, (request, response) => {
    if (asked.length === 1) return cut(response, told(0, 1, ""));
    if (asked.length === 4) return cut(response, told(1, 2, ""));
    if (asked.length === 3) return cut(response, bytes(": tailrace\n"));
    return response.destroy();
  });
  const seen = [];
  const fetch = healingFetch({ ...FAST, tries: 3, onReconnect: (about) => seen.push(about) });
  await assert.rejects((await fetch(url)).text(), (error) => {
    assert.ok(error instanceof StreamLost);
    assert.match(error.message, /network connection was lost, and 3 tries/);
    assert.equal(error.lastEventId, "2");
    assert.equal(error.status, undefined);
    assert.ok(error.cause);
    return true;
  });
  assert.deepEqual(seen.map((about) => about.try), [1, 2, 3, 1, 2, 3]);
  assert.deepEqual(seen.map((about) => about.lastEventId), ["1", "1", "1", "2", "2", "2"]);
  assert.equal(asked.length, 7);
});

test("a server that goes away says when to come back, and is not taken for the end", async (t) => {
  const { url } = await serving(t, (request, response, n) =>
    n === 1
      ? whole(response, told(0, 2, "retry: 500\n: end\n"))
      : whole(response, told(2, 3)),
  );
  const pauses = [];
  const onReconnect = (about) => pauses.push(about.pause);
  const response = await healingFetch({ longestPause: 20, onReconnect })(url);
  assert.equal(await response.text(), frames(3));
  assert.deepEqual(pauses, [20]);
});

test("a stream without a frame ends, too", async (t) => {
  const { url, asked } = await serving(t, (request, response) => whole(response, told(0, 0)));
  assert.equal(await (await healingFetch(FAST)(url)).text(), "");
  assert.equal(asked.length, 1);
});

test("a server that goes away before the first frame invites as well", async (t) => {
  const { url } = await serving(t, (request, response, n) =>
    whole(response, n === 1 ? told(0, 0, "retry: 500\n: end\n") : told(0, 1)),
  );
  assert.equal(await (await healingFetch(FAST)(url)).text(), frames(1));
});

test("nothing is asked after the proper end, also where the connection stays open", async (t) => {
  const { url, asked } = await serving(t, (request, response) => {
    response.writeHead(200, STREAM);
    response.write(told(0, 2));
  });
  assert.equal(await (await healingFetch(FAST)(url)).text(), frames(2));
  assert.equal(asked.length, 1);
});

test("a frame without an id belongs to the next that has one", async (t) => {
  const { url } = await serving(t, (request, response, n) => {
    const a = "data: a\n\n";
    const b = "data: b\n\n";
    if (n === 1) return cut(response, bytes(frame(1) + a));
    if (n === 2) return cut(response, bytes(a + b));
    return whole(response, bytes(a + b + frame(2) + a + ": end\n"));
  });
  const text = await (await healingFetch(FAST)(url)).text();
  assert.equal(text, `${frame(1)}data: a\n\ndata: b\n\n${frame(2)}data: a\n\n`);
});

test("a stream whose frames have no ids is not gone on with", async (t) => {
  const { url, asked } = await serving(t, (request, response) => {
    const one = bytes("data: a\n\n");
    return request.url === "/cut" ? cut(response, one) : whole(response, one);
  });
  const fetch = healingFetch(FAST);
  assert.equal(await (await fetch(`${url}/whole`)).text(), "data: a\n\n");
  await assert.rejects((await fetch(`${url}/cut`)).text(), TypeError);
  assert.equal(asked.length, 2);
});

test("comments wake nobody, and CRLF becomes LF", async (t) => {
  const sent = bytes("retry: 1\r\nid: 1\r\ndata: a\r\n\r\n: keep-alive\r\n: end\r\n");
  const { url } = await serving(t, (request, response) => whole(response, sent, STREAM, 1));
  const reader = (await healingFetch(FAST)(url)).body.getReader();
  assert.equal(Buffer.from((await reader.read()).value).toString(), "id: 1\ndata: a\n\n");
  assert.equal((await reader.read()).done, true);
});

test("an abort is at once, in every phase", async (t) => {
  let hold;
  const { url, asked } = await serving(t, (request, response, n) => {
    if (request.url === "/quiet") return response.writeHead(200, STREAM).write(told(0, 1, ""));
    if (n % 2) return cut(response, told(0, 1, ""), { ...STREAM, "content-location": "/held" });
    return hold?.(response);
  });
  const phases = {
    "while nothing comes": { path: "/quiet", options: {} },
    "in a pause": { path: "/", options: { firstPause: 30_000 }, reached: () => true },
    "in an attempt": { path: "/", options: FAST, reached: () => asked.length % 2 === 0 },
  };
  for (const [phase, { path, options, reached = () => true }] of Object.entries(phases)) {
    asked.length = path === "/quiet" ? 0 : asked.length - (asked.length % 2);
    const controller = new AbortController();
    let waits;
    const paused = new Promise((resolve) => {
      waits = resolve;
    });
    const pausing = { ...options, onReconnect: () => waits() };
    const response = await healingFetch(pausing)(url + path, { signal: controller.signal });
    const reader = response.body.getReader();
    await reader.read();
    const rest = reader.read();
    if (path !== "/quiet") await paused;
    while (!reached()) await new Promise(setImmediate);
    const reason = new DOMException(phase, "AbortError");
    controller.abort(reason);
    await assert.rejects(rest, (error) => error === reason);
  }
});

test("who cancels the body ends the connection", async (t) => {
  let closed;
  const { url, asked } = await serving(t, (request, response) => {
    closed = once(response, "close");
    response.writeHead(200, STREAM).write(told(0, 1, ""));
  });
  const reader = (await healingFetch(FAST)(url)).body.getReader();
  await reader.read();
  await reader.cancel("enough");
  await closed;
  assert.equal(asked.length, 1);
});

test("who cancels in a pause is not asked for any more", async (t) => {
  const { url, asked } = await serving(t, (request, response) => cut(response, told(0, 1, "")));
  let waits;
  const paused = new Promise((resolve) => {
    waits = resolve;
  });
  const reader = (await healingFetch({ onReconnect: () => waits() })(url)).body.getReader();
  await reader.read();
  const rest = reader.read();
  await paused;
  await reader.cancel();
  assert.equal((await rest).done, true);
  assert.equal(asked.length, 1);
});

test("a line that is dead at its other end is noticed, and so is a silent attempt", async (t) => {
  const { url, asked } = await serving(t, (request, response, n) => {
    if (n === 1) return response.writeHead(200, STREAM).write(told(0, 1, ""));
    if (n === 2) return undefined;
    return whole(response, told(1, 2));
  });
  const causes = [];
  const onReconnect = ({ cause }) => causes.push(cause.message);
  const response = await healingFetch({ ...FAST, silence: 50, onReconnect })(url);
  assert.equal(await response.text(), frames(2));
  assert.deepEqual(causes, ["Nothing was heard for 50 ms.", "No answer in 50 ms."]);
  assert.equal(asked.length, 3);
});

test("heartbeats keep a silent stream", async (t) => {
  const { url, asked } = await serving(t, (request, response) => {
    response.writeHead(200, STREAM).write(told(0, 1, ""));
    let beats = 0;
    const timer = setInterval(() => {
      if (++beats < 10) return response.write(": keep-alive\n");
      clearInterval(timer);
      return response.end(told(1, 2));
    }, 20);
  });
  assert.equal(await (await healingFetch({ ...FAST, silence: 150 })(url)).text(), frames(2));
  assert.equal(asked.length, 1);
});

test("nothing is read ahead of whoever reads", async (t) => {
  let sent = 0;
  const { url } = await serving(t, async (request, response) => {
    response.writeHead(200, STREAM);
    const block = bytes(`id: 1\ndata: ${"x".repeat(64 * 1024)}\n\n`);
    while (!response.destroyed && sent < 1e8) {
      sent += block.length;
      if (!response.write(block)) await once(response, "drain").catch(() => {});
    }
    response.end(": end\n");
  });
  const reader = (await healingFetch(FAST)(url)).body.getReader();
  await reader.read();
  // Until the sockets are full, and nothing moves any more.
  let before = -1;
  while (before !== sent) {
    before = sent;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.ok(sent < 5e7, `${sent} bytes were taken without a reader`);
  await reader.cancel();
});

test("a frame that never ends is not kept", async (t) => {
  const { url } = await serving(t, (request, response) => {
    response.writeHead(200, STREAM);
    response.end(Buffer.alloc(17 * 1024 * 1024, "x"));
  });
  await assert.rejects((await healingFetch(FAST)(url)).text(), /exceeds/);
});
