// Plain Node: its http module, and a Set of responses.
'use strict';
const http = require('http');
const { setImmediate: turn, setTimeout: pause } = require('timers/promises');

const watchers = new Set();
let stored = [];

function text(p, n, size) {
  const head = `{"p":${p},"n":${n},"t":${process.hrtime.bigint()},"pad":"`;
  return head.padEnd(size - 2, 'x') + '"}';
}

const frame = (p, n, size) => `data: ${text(p, n, size)}\n\n`;

async function publisher(p, rate, seconds, size) {
  const began = performance.now();
  let n = 0;
  while (rate ? n < rate * seconds : performance.now() - began < seconds * 1000) {
    if (rate) {
      const wait = began + (n * 1000) / rate - performance.now();
      if (wait > 0) await pause(wait);
    }
    n += 1;
    const bytes = Buffer.from(frame(p, n, size));
    const full = [];
    for (const watcher of watchers) if (!watcher.write(bytes)) full.push(watcher);
    if (!rate) {
      await turn();
      for (const watcher of full)
        if (watcher.writableNeedDrain) await new Promise((go) => watcher.once('drain', go));
    }
  }
  return n;
}

async function told(response, frames) {
  for await (const bytes of frames)
    if (!response.write(bytes)) await new Promise((go) => response.once('drain', go));
  response.end();
}

function* firehose(count, size) {
  for (let n = 1; n <= count; n += 1) yield frame(0, n, size);
}

async function* tokens(count, size) {
  for (let n = 1; n <= count; n += 1) {
    yield frame(0, n, size);
    if (n % 10 === 0) await pause(10);
  }
}

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://here');
  const asked = (name, otherwise) => Number(url.searchParams.get(name) ?? otherwise);
  const size = asked('size', 198);
  if (request.method === 'POST') {
    let body = {};
    if (url.pathname === '/publish') {
      const all = [];
      for (let p = 0; p < asked('publishers', 1); p += 1)
        all.push(publisher(p, asked('rate', 0), asked('seconds', 1), size));
      body = { published: (await Promise.all(all)).reduce((a, b) => a + b) };
    } else {
      stored = [...firehose(asked('count', 1), size)];
    }
    response.end(JSON.stringify(body));
    return;
  }
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
  response.flushHeaders();
  if (url.pathname === '/firehose') return told(response, firehose(asked('count', 1), size));
  if (url.pathname === '/tokens') return told(response, tokens(asked('count', 1), size));
  if (url.pathname === '/replay') return told(response, stored);
  if (url.pathname === '/one') response.write(frame(0, 1, size));
  watchers.add(response);
  response.on('close', () => watchers.delete(response));
});

setInterval(() => {
  for (const watcher of watchers) watcher.write(': ping\n\n');
}, 5000);

server.setTimeout(0);
server.keepAliveTimeout = 0;
server.listen({ host: '127.0.0.1', port: Number(process.argv[2]), backlog: 4096 });
