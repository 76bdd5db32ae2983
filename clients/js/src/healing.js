import { Frames } from "./frames.js";
import { StreamLost } from "./lost.js";
import { LONGEST_ASKED, SHORTEST_ASKED, pause, retryAfter } from "./pauses.js";
import { continuation, dressed, isEventStream, problem, resuming, signalOf } from "./requests.js";
import { Trail } from "./trail.js";

// Below 500, these are about the moment and not about the request (RFC 9110, 8470 and 6585).
const OF_THE_MOMENT = new Set([408, 425, 429]);

const STALE_MS = 1000;

/**
 * A `fetch` whose event streams go on after a dropped connection. See index.d.ts.
 * @param {import("./index.js").HealingOptions} [options]
 * @returns {typeof globalThis.fetch}
 */
export function healingFetch(options = {}) {
  /** @type {typeof globalThis.fetch} */
  return async function healing(input, init) {
    // Looked up now: other libraries replace the global one.
    const fetch = options.fetch ?? globalThis.fetch;
    const response = await fetch(input, init);
    const place = continuation(response, input);
    if (place === undefined) return response;
    const stream = new Healing(response, place, resuming(input, init), signalOf(input, init), {
      fetch,
      tries: options.tries ?? 8,
      firstPause: options.firstPause ?? 200,
      longestPause: options.longestPause ?? 30_000,
      silence: options.silence ?? 45_000,
      onReconnect: options.onReconnect ?? (() => {}),
    });
    return dressed(response, stream.body);
  };
}

/**
 * @typedef {Required<import("./index.js").HealingOptions>} Settings
 * @typedef {ReadableStreamDefaultReader<Uint8Array>} Reader
 */

/** One stream, through any number of connections. */
class Healing {
  #place;
  #init;
  #settings;
  /** @type {Reader} */
  #reader;
  #frames = new Frames();
  #stopping = new AbortController();
  #lastId;
  #trail = new Trail();
  #tries = 0;
  /** @type {number | undefined} */
  #retry;
  /** Whether this connection's first reconnection time was said: a stream opens with it. */
  #isOpened = false;
  /** Whether another one was the last thing said: with the end, it invites. */
  #isHinted = false;
  #isInvited = false;
  #isOver = false;
  #isStopped = false;

  /**
   * @param {Response} response
   * @param {URL} place
   * @param {ReturnType<typeof resuming>} init
   * @param {AbortSignal | undefined} signal
   * @param {Settings} settings
   */
  constructor(response, place, init, signal, settings) {
    this.#reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
    this.#place = place;
    this.#init = init;
    this.#settings = settings;
    // Our server says from where it tells, so that a stream of what comes now has a cursor too.
    const { headers } = response;
    this.#lastId = init.headers.get("last-event-id") ?? headers.get("last-event-id") ?? "";
    /** @type {ReadableStreamDefaultController<Uint8Array>} */
    let controller;
    const aborted = () => {
      this.#stop(signal?.reason);
      controller.error(signal?.reason);
    };
    this.body = new ReadableStream(
      {
        start: (given) => {
          controller = given;
        },
        pull: async () => {
          try {
            await this.#pull(controller);
          } finally {
            if (this.#isStopped || this.#isOver) signal?.removeEventListener("abort", aborted);
          }
        },
        cancel: (reason) => {
          signal?.removeEventListener("abort", aborted);
          this.#stop(reason);
        },
      },
      // Nothing is read ahead: whoever does not read holds up the server, as without us.
      { highWaterMark: 0 },
    );
    if (signal?.aborted) aborted();
    else signal?.addEventListener("abort", aborted, { once: true });
  }

  /** @param {unknown} reason */
  #stop(reason) {
    this.#isStopped = true;
    this.#stopping.abort(reason);
    this.#reader.cancel(reason).catch(() => {});
  }

  /**
   * Bring some frames, or the end.
   * @param {ReadableStreamDefaultController<Uint8Array>} controller
   */
  async #pull(controller) {
    try {
      while (!this.#isStopped) {
        const { bytes, cut } = await this.#read();
        if (this.#isStopped) return;
        const frames = bytes ? this.#taken(bytes) : [];
        if (frames.length) controller.enqueue(joined(frames));
        if (this.#isInvited || cut !== undefined) await this.#reopen(cut);
        if (this.#isStopped) return;
        if (this.#isOver) {
          controller.close();
          left(this.#reader);
          return;
        }
        if (frames.length) return;
      }
    } catch (error) {
      if (this.#isStopped) return;
      this.#stop(error);
      throw error;
    }
  }

  /**
   * The next bytes, or what has cut the stream: an error, or null for what looks like an end.
   * @returns {Promise<{ bytes?: Uint8Array, cut?: unknown }>}
   */
  async #read() {
    const { silence } = this.#settings;
    const reader = this.#reader;
    /** @type {unknown} */
    let cut = null;
    // A line that is dead at its other end never fails by itself.
    const timer = timed(silence, () => {
      cut = new Error(`Nothing was heard for ${silence} ms.`);
      reader.cancel(cut).catch(() => {});
    });
    try {
      const { done, value } = await reader.read();
      return done ? { cut } : { bytes: value };
    } catch (error) {
      return { cut: error };
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * The frames to forward of what has come.
   * @param {Uint8Array} chunk
   */
  #taken(chunk) {
    const frames = [];
    for (const found of this.#frames.push(chunk)) {
      if ("retry" in found) {
        this.#retry = found.retry;
        this.#isHinted = this.#isOpened;
        this.#isOpened = true;
        continue;
      }
      if ("bytes" in found) {
        this.#tries = 0;
        if (found.id !== undefined) this.#lastId = found.id;
        if (!this.#trail.knows(found)) frames.push(found.bytes);
      } else if (found.comment === "end") {
        // "Come back in so many milliseconds", right before it, is a server that goes away.
        if (this.#isHinted) this.#isInvited = true;
        else this.#isOver = true;
        break;
      } else if (found.comment === "keep-alive") {
        // The connection has lived for a while: what is silent is the work.
        this.#tries = 0;
      }
      this.#isHinted = false;
    }
    return frames;
  }

  /**
   * Ask until there is a stream again, or none any more. Raises StreamLost.
   * @param {unknown} cut
   */
  async #reopen(cut) {
    if (!this.#lastId && !this.#trail.isEmpty) {
      // Frames that have no ids: not a stream of the kind that goes on. Its end is its own.
      if (cut) throw cut;
      this.#isOver = true;
      return;
    }
    if (!this.#trail.isWhole) {
      const lastEventId = this.#lastId;
      const text = "The stream was cut after more frames without an id than are remembered.";
      throw new StreamLost(text, { lastEventId, cause: cut });
    }
    left(this.#reader);
    const { tries: most, longestPause: longest, onReconnect } = this.#settings;
    const lastEventId = this.#lastId;
    /** @type {unknown} */
    let why = cut ?? new Error("The stream ended before its work did.");
    /** @type {number | undefined} */
    let asked;
    while (this.#tries < most) {
      // A server that asks for no pause at all would be asked without end, and without a pause.
      const asks = this.#retry === undefined ? undefined : Math.max(this.#retry, SHORTEST_ASKED);
      const base = asks ?? this.#settings.firstPause;
      const isInvited = this.#isInvited;
      const chance = Math.random();
      const wait = pause({ tries: this.#tries, base, longest, asked, isInvited, chance });
      this.#isInvited = false;
      onReconnect({ try: ++this.#tries, pause: wait, lastEventId, cause: why });
      await slept(wait, this.#stopping.signal);
      if (this.#isStopped) return;
      const answer = await this.#asked();
      if (this.#isStopped || answer === undefined) return;
      ({ why, asked } = answer);
    }
    throw new StreamLost(
      `The network connection was lost, and ${most} tries to go on failed: ${said(why)}`,
      { lastEventId, cause: why },
    );
  }

  /**
   * Ask once. Nothing, if the matter is settled; else why not, and when to ask again.
   * @returns {Promise<{ why: unknown, asked?: number } | undefined>}
   */
  async #asked() {
    const { fetch, silence } = this.#settings;
    const headers = new Headers(this.#init.headers);
    if (this.#lastId) headers.set("last-event-id", this.#lastId);
    else headers.delete("last-event-id");
    const attempt = new AbortController();
    const stop = () => attempt.abort(this.#stopping.signal.reason);
    this.#stopping.signal.addEventListener("abort", stop);
    const timer = timed(silence, () => attempt.abort(new Error(`No answer in ${silence} ms.`)));
    try {
      const response = await fetch(this.#place.href, {
        ...this.#init,
        headers,
        signal: attempt.signal,
      });
      if (response.status === 204) {
        this.#isOver = true;
        return undefined;
      }
      if (response.ok && response.body && isEventStream(response)) {
        this.#reader = response.body.getReader();
        this.#frames = new Frames();
        this.#isOpened = this.#isHinted = false;
        this.#trail.rewind();
        if (this.#isStopped) this.#stop(undefined);
        return undefined;
      }
      return await this.#refused(response);
    } catch (error) {
      if (error instanceof StreamLost) throw error;
      return { why: attempt.signal.aborted ? attempt.signal.reason : error };
    } finally {
      clearTimeout(timer);
      this.#stopping.signal.removeEventListener("abort", stop);
    }
  }

  /**
   * What is no stream: whether it may be one later. Raises StreamLost.
   * @param {Response} response
   */
  async #refused(response) {
    const { status, headers } = response;
    const asked = retryAfter(headers.get("retry-after"), Date.now());
    const isOfTheMoment = status >= 500 || OF_THE_MOMENT.has(status);
    const text = await problem(response);
    if (isOfTheMoment && (asked ?? 0) <= LONGEST_ASKED) return { why: new Error(text), asked };
    throw new StreamLost(`The stream cannot go on: ${text}`, {
      lastEventId: this.#lastId,
      status,
    });
  }
}

/** @param {Uint8Array[]} parts */
function joined(parts) {
  if (parts.length === 1) return parts[0];
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * A response that has said its last word: it closes the connection itself, which so can be used
 * again. One that does not is closed.
 * @param {Reader} reader
 */
function left(reader) {
  const timer = timed(STALE_MS, () => reader.cancel().catch(() => {}));
  const rest = async () => {
    while (!(await reader.read()).done);
  };
  rest().catch(() => {}).finally(() => clearTimeout(timer));
}

/**
 * A timer, for a time that there is.
 * @param {number} milliseconds
 * @param {() => void} act
 */
function timed(milliseconds, act) {
  return milliseconds > 0 && milliseconds < 2 ** 31 ? setTimeout(act, milliseconds) : undefined;
}

/**
 * Wait, but not after `signal`.
 * @param {number} milliseconds
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function slept(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener("abort", done);
  });
}

/** @param {unknown} why */
function said(why) {
  return why instanceof Error ? why.message : String(why);
}
