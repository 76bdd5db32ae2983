import { once } from "node:events";
import { createServer, request as ask } from "node:http";

/**
 * A proxy that loses connections, in front of `target`. What it does a request says by headers,
 * which a client repeats when it comes back:
 *   x-cut-after: n   the first connection ends after n frames
 *   x-cut-each: n    every connection does
 *   x-cut-how: end   it ends properly, as if that were all; otherwise it breaks
 *   x-crlf: 1        lines end with CRLF
 * `asked` has what was asked for.
 */
export async function cutting(target) {
  const asked = [];
  const server = createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`);
    const { headers } = request;
    const isFirst = headers["last-event-id"] === undefined;
    const limit = Number(headers["x-cut-each"] ?? (isFirst && headers["x-cut-after"]) ?? NaN);
    const onward = ask(new URL(request.url, target), { method: request.method, headers });
    // A client that leaves is no reason to fail; that it left is told to the server.
    response.on("close", () => onward.destroy());
    onward.on("error", () => response.destroy());
    request.pipe(onward);
    onward.on("response", async (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      response.flushHeaders();
      try {
        const isWhole = await forward(answer, response, limit || Infinity, headers["x-crlf"]);
        if (isWhole || headers["x-cut-how"] === "end") response.end();
        else response.destroy();
      } catch {
        response.destroy();
      }
      onward.destroy();
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    asked,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** Forward an answer's body, or so many frames of it; whether that was all. */
async function forward(answer, response, limit, isCrlf) {
  const isStream = (answer.headers["content-type"] ?? "").startsWith("text/event-stream");
  let left = limit;
  let text = "";
  for await (const chunk of answer) {
    if (!isStream) {
      response.write(chunk);
      continue;
    }
    text += chunk.toString("latin1");
    for (let at = text.indexOf("\n\n"); at >= 0; at = text.indexOf("\n\n")) {
      await write(response, text.slice(0, at + 2), isCrlf);
      text = text.slice(at + 2);
      if (!--left) return false;
    }
  }
  if (text) await write(response, text, isCrlf);
  return true;
}

function write(response, text, isCrlf) {
  const sent = isCrlf ? text.replaceAll("\n", "\r\n") : text;
  return new Promise((resolve) => {
    response.write(Buffer.from(sent, "latin1"), () => setImmediate(resolve));
  });
}
