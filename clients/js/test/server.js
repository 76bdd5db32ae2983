import { createServer } from "node:http";
import { once } from "node:events";

/**
 * A server of this machine for one test: `answer(request, response, n)` is called for each
 * request, which are kept in `asked`. It is closed with its connections when the test ends.
 */
export async function serving(test, answer) {
  const asked = [];
  const server = createServer(async (request, response) => {
    const body = [];
    for await (const chunk of request) body.push(chunk);
    const { method, url, headers } = request;
    asked.push({ method, url, headers, body: Buffer.concat(body).toString() });
    await answer(request, response, asked.length);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  test.after(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  });
  return { url: `http://127.0.0.1:${server.address().port}`, asked };
}

export const STREAM = {
  "content-type": "text/event-stream; charset=utf-8",
  "content-location": "/resume?format=x",
};

/** Send the head and `bytes`, and then close the connection without a proper end. */
export function cut(response, bytes, headers = STREAM) {
  response.writeHead(200, headers);
  response.flushHeaders();
  if (!bytes.length) return setImmediate(() => response.destroy());
  return response.write(bytes, () => setImmediate(() => response.destroy()));
}

/** Send `bytes`, in chunks of `size`, and end properly. */
export function whole(response, bytes, headers = STREAM, size = bytes.length || 1) {
  response.writeHead(200, headers);
  for (let at = 0; at < bytes.length; at += size) response.write(bytes.subarray(at, at + size));
  response.end();
}

export const bytes = (text) => Buffer.from(text);

/** Frames 1 to `last`, of which all after `after`, as a Tailrace server sends them. */
export function told(after, last, closing = ": end\n") {
  let text = ": tailrace\nretry: 1000\n";
  for (let n = after + 1; n <= last; n++) text += frame(n);
  return bytes(text + closing);
}

export function frame(n) {
  return `id: ${n}\nevent: text\ndata: {"chunk":"žluťoučký 🐎 ${n}"}\n\n`;
}

/** Fast, for tests: what is honoured is looked at where pauses are computed. */
export const FAST = { longestPause: 2 };
