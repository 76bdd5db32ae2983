// Where and how a stream is asked for again, and what is made of the answer.

const MAX_PROBLEM_BYTES = 64 * 1024;
const MAX_PROBLEM_CHARACTERS = 500;

/**
 * Where a GET goes on with this very stream, if it can be gone on with.
 * @param {Response} response
 * @param {RequestInfo | URL} input
 */
export function continuation(response, input) {
  const location = response.headers.get("content-location");
  if (!response.ok || !response.body || !location || !isEventStream(response)) return undefined;
  const page = globalThis.document?.baseURI ?? globalThis.location?.href;
  const url = input instanceof Request ? input.url : String(input);
  const asked = absolute(url, page ?? response.url);
  const place = absolute(location, response.url || asked?.href);
  // The caller's credentials go to the origin that the caller has chosen, and to no other: not
  // to where a header points, and not to where a redirect led.
  return asked && place && place.origin === asked.origin ? place : undefined;
}

/** @param {Response} response */
export function isEventStream(response) {
  const type = response.headers.get("content-type") ?? "";
  return type.split(";")[0].trim().toLowerCase() === "text/event-stream";
}

/**
 * @param {string} text
 * @param {string} [base]
 */
function absolute(text, base) {
  try {
    const url = new URL(text, base || undefined);
    return /^https?:$/.test(url.protocol) ? url : undefined;
  } catch {
    return undefined;
  }
}

/**
 * @param {RequestInfo | URL} input
 * @param {RequestInit} [init]
 */
export function signalOf(input, init) {
  return init?.signal ?? (input instanceof Request ? input.signal : undefined) ?? undefined;
}

/**
 * The caller's request, without its body, for asking again.
 * @param {RequestInfo | URL} input
 * @param {RequestInit & { duplex?: unknown }} [init]
 */
export function resuming(input, init = {}) {
  const request = input instanceof Request ? input : undefined;
  const headers = new Headers(init.headers ?? request?.headers);
  for (const name of [...headers.keys()]) {
    if (/^(content-.*|idempotency-key|transfer-encoding|expect)$/.test(name)) headers.delete(name);
  }
  headers.set("accept", "text/event-stream");
  const { body, method, duplex, signal, integrity, keepalive, ...kept } = init;
  return {
    ...(request && {
      credentials: request.credentials,
      mode: request.mode,
      referrerPolicy: request.referrerPolicy,
    }),
    ...kept,
    headers,
    cache: /** @type {RequestCache} */ ("no-store"),
    // A key in a header of its own would follow to another origin.
    redirect: /** @type {RequestRedirect} */ ("manual"),
  };
}

/**
 * The response with another body, which looks as the first one did.
 * @param {Response} response
 * @param {ReadableStream<Uint8Array>} body
 */
export function dressed(response, body) {
  const { status, statusText, url, redirected } = response;
  const headers = new Headers(response.headers);
  // The body is decoded, and its length is not known any more.
  headers.delete("content-encoding");
  headers.delete("content-length");
  const given = new Response(body, { status, statusText, headers });
  Object.defineProperty(given, "url", { value: url });
  Object.defineProperty(given, "redirected", { value: redirected });
  return given;
}

/**
 * What a refusal says, by RFC 9457 where it does.
 * @param {Response} response
 */
export async function problem(response) {
  const { status, statusText, type } = response;
  if (type === "opaqueredirect" || (status >= 300 && status < 400)) {
    response.body?.cancel().catch(() => {});
    return "it leads to another address.";
  }
  const body = await beginning(response);
  let told = body;
  if ((response.headers.get("content-type") ?? "").includes("json")) {
    try {
      const { title, detail, error } = JSON.parse(body);
      told = String(detail ?? title ?? error?.message ?? error ?? body);
    } catch {
      // Then it is told as it is.
    }
  }
  if (response.ok) told = "no event stream";
  return `${status} ${statusText} ${told.slice(0, MAX_PROBLEM_CHARACTERS)}`.trim();
}

/** @param {Response} response */
async function beginning(response) {
  const decoder = new TextDecoder();
  const reader = response.body?.getReader();
  let text = "";
  try {
    while (reader && text.length < MAX_PROBLEM_BYTES) {
      const { done, value } = await reader.read();
      if (done) break;
      text += decoder.decode(value, { stream: true });
    }
  } catch {
    // What there is of it is told.
  }
  reader?.cancel().catch(() => {});
  return text;
}
