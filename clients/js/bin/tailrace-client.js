#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { healingFetch } from "../src/healing.js";
import { Timing } from "../src/timing.js";

const USAGE = `usage: tailrace-client stream-timing URL [options]

Prints each event of a stream when it arrives: milliseconds since the request, since the line
before, id, type and data.

  -X, --request METHOD   default GET; POST with --data
  -d, --data TEXT        a body, taken for JSON; @FILE reads it from there, @- from stdin
  -H, --header LINE      a header, as "Name: value"; may be given several times
      --heal             go on after a dropped connection
      --full             do not cut lines at the terminal's width
  -h, --help
`;

const EXIT_USAGE = 2;

/** @param {string[]} words */
function read(words) {
  const { values, positionals } = parseArgs({
    args: words,
    allowPositionals: true,
    options: {
      request: { type: "string", short: "X" },
      data: { type: "string", short: "d" },
      header: { type: "string", short: "H", multiple: true, default: [] },
      heal: { type: "boolean", default: false },
      full: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return undefined;
  const [command, url, ...more] = positionals;
  if (command !== "stream-timing") throw new Error("The one thing that it does: stream-timing.");
  if (!url || more.length) throw new Error("It takes one URL.");
  const headers = new Headers({ accept: "text/event-stream" });
  for (const line of values.header ?? []) {
    const at = line.indexOf(":");
    if (at < 1) throw new Error(`"${line}" is no header: write it as "Name: value".`);
    headers.set(line.slice(0, at).trim(), line.slice(at + 1).trim());
  }
  const { data } = values;
  const body = data?.startsWith("@")
    ? readFileSync(data === "@-" ? 0 : data.slice(1), "utf8")
    : data;
  if (body !== undefined && !headers.has("content-type")) {
    headers.set("content-type", "application/json");
  }
  const method = values.request ?? (body === undefined ? "GET" : "POST");
  return { url: new URL(url), init: { method, headers, body }, ...values };
}

/** @param {NonNullable<ReturnType<typeof read>>} asked */
async function timed({ url, init, heal, full }) {
  const width = full ? Infinity : (process.stdout.columns ?? Infinity);
  const timing = new Timing({ width, isColoured: process.stdout.isTTY });
  const began = performance.now();
  const since = () => performance.now() - began;
  const stopping = new AbortController();
  process.once("SIGINT", () => stopping.abort());
  const fetch = heal
    ? healingFetch({
        onReconnect: ({ pause, lastEventId, cause }) => {
          const why = cause instanceof Error ? cause.message : cause;
          const text = `(${why} Going on after ${lastEventId || "nothing"} in ${pause | 0} ms.)`;
          console.log(timing.note(text, since()));
        },
      })
    : globalThis.fetch;
  let isWhole = false;
  try {
    const response = await fetch(url, { ...init, signal: stopping.signal });
    const type = response.headers.get("content-type") ?? "no type";
    console.log(timing.note(`${response.status} ${response.statusText}, ${type}`, since()));
    if (!response.ok || !type.startsWith("text/event-stream")) {
      console.log((await response.text()).slice(0, 2000));
      return 1;
    }
    for await (const chunk of response.body ?? []) {
      for (const line of timing.push(chunk, since())) console.log(line);
    }
    isWhole = true;
  } catch (error) {
    if (!stopping.signal.aborted) {
      const { message, cause } = /** @type {Error} */ (error);
      const why = cause instanceof Error ? ` (${cause.message})` : "";
      console.error(`tailrace-client: ${message}${why}`);
    }
  }
  console.log(timing.summary());
  return isWhole || stopping.signal.aborted ? 0 : 1;
}

let asked;
try {
  asked = read(process.argv.slice(2));
} catch (error) {
  console.error(`tailrace-client: ${/** @type {Error} */ (error).message}\n\n${USAGE}`);
  process.exitCode = EXIT_USAGE;
}
if (asked) process.exitCode = await timed(asked);
else if (!process.exitCode) console.log(USAGE);
