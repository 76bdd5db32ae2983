// better-sse on Node's http module: a session for each watcher, one channel for all.
import http from 'node:http';
import { createRequire } from 'node:module';
import { setImmediate as turn, setTimeout as pause } from 'node:timers/promises';

// What a frame has besides the filling: event, a random id, the other keys.
const FIXED = 112;

const { createChannel, createSession } = createRequire(process.argv[3] + '/')('better-sse');
const channel = createChannel();
let stored = [];

function item(p, n, size) {
  // A BigInt is not JSON, and below 2^53 nanoseconds (104 days of uptime) it need not be one.
  return { p, n, t: Number(process.hrtime.bigint()), pad: 'x'.repeat(size - FIXED) };
}

async function publisher(p, rate, seconds, size) {
  const began = performance.now();
  let n = 0;
  while (rate ? n < rate * seconds : performance.now() - began < seconds * 1000) {
    if (rate) {
      const wait = began + (n * 1000) / rate - performance.now();
      if (wait > 0) await pause(wait);
    }
    n += 1;
    channel.broadcast(item(p, n, size));
    if (!rate) await turn();
  }
  return n;
}

function* firehose(count, size) {
  for (let n = 1; n <= count; n += 1) yield item(0, n, size);
}

async function* tokens(count, size) {
  for (let n = 1; n <= count; n += 1) {
    yield item(0, n, size);
    if (n % 10 === 0) await pause(10);
  }
}

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://here');
  const asked = (name, otherwise) => Number(url.searchParams.get(name) ?? otherwise);
  const size = asked('size', 206);
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
  const session = await createSession(request, response, { keepAlive: 5000 });
  if (url.pathname === '/firehose') await session.iterate(firehose(asked('count', 1), size));
  else if (url.pathname === '/tokens') await session.iterate(tokens(asked('count', 1), size));
  else if (url.pathname === '/replay') await session.iterate(stored);
  else {
    if (url.pathname === '/one') session.push(item(0, 1, size));
    channel.register(session);
    return;
  }
  response.end();
});

server.setTimeout(0);
server.keepAliveTimeout = 0;
server.listen({ host: '127.0.0.1', port: Number(process.argv[2]), backlog: 4096 });
