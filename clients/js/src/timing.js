// When each event of a stream arrives: how one sees whether something on the way holds it back.

import { fields, Frames } from "./frames.js";

/**
 * The gaps of a stream, in milliseconds. If work that takes its time has a median near zero, after
 * one large gap, its stream was held back and came in one piece.
 * @param {number[]} times when the events came, since the request
 */
export function summary(times) {
  const gaps = times.slice(1).map((time, n) => time - times[n]).sort((a, b) => a - b);
  const middle = gaps.length >> 1;
  const median = gaps.length % 2 ? gaps[middle] : (gaps[middle - 1] + gaps[middle]) / 2;
  return {
    count: times.length,
    first: times.length ? times[0] : undefined,
    median: gaps.length ? median : undefined,
    longest: gaps.at(-1),
  };
}

/** Tells events as lines, each with its time. No I/O: time enters as an argument. */
export class Timing {
  #frames = new Frames();
  #last = 0;
  #width;
  #isColoured;
  /** When the events came, in milliseconds since the request. @type {number[]} */
  times = [];
  comments = 0;
  bytes = 0;

  /** @param {{ width?: number, isColoured?: boolean }} [shown] */
  constructor({ width = Infinity, isColoured = false } = {}) {
    this.#width = width;
    this.#isColoured = isColoured;
  }

  /**
   * The lines for what has come at `now`, milliseconds since the request.
   * @param {Uint8Array} chunk
   * @param {number} now
   */
  push(chunk, now) {
    this.bytes += chunk.length;
    return this.#frames.push(chunk).map((found) => {
      if ("bytes" in found) {
        const { event, id, data } = fields(found.bytes);
        if (data === undefined) return this.#line(now, `id: ${id}`, true);
        this.times.push(now);
        return this.#line(now, `${id || "-"} ${event} ${data}`);
      }
      this.comments += "comment" in found ? 1 : 0;
      const text = "retry" in found ? `retry: ${found.retry}` : `: ${found.comment}`;
      return this.#line(now, text, true);
    });
  }

  /**
   * A remark, at its time.
   * @param {string} text
   * @param {number} now
   */
  note(text, now) {
    return this.#line(now, text, true);
  }

  /** What it was all in all. */
  summary() {
    const { count, first, median, longest } = summary(this.times);
    const events = `${count} event${count === 1 ? "" : "s"}, ${this.bytes} bytes`;
    const parts = [events, `comments: ${this.comments}`];
    if (first !== undefined) parts.push(`first event after ${spoken(first)}`);
    if (median !== undefined) parts.push(`median gap ${spoken(median)}`);
    if (longest !== undefined) parts.push(`longest gap ${spoken(longest)}`);
    return parts.join("; ");
  }

  /**
   * @param {number} now
   * @param {string} text
   * @param {boolean} [isDim]
   */
  #line(now, text, isDim = false) {
    const times = `${told(now)} +${told(now - this.#last)}  `;
    this.#last = now;
    // What a server sends must not move the cursor of whoever looks at it.
    const plain = text.replace(/[\p{Cc}\p{Cf}]/gu, (one) => (one === "\n" ? "⏎" : "·"));
    const room = this.#width - times.length;
    const characters = [...plain];
    const shown =
      characters.length > room ? `${characters.slice(0, Math.max(1, room - 1)).join("")}…` : plain;
    return this.#isColoured && isDim ? `\x1b[2m${times}${shown}\x1b[0m` : times + shown;
  }
}

/** @param {number} milliseconds */
function told(milliseconds) {
  return `${milliseconds.toFixed(1)}`.padStart(9);
}

/** @param {number} milliseconds */
function spoken(milliseconds) {
  return `${milliseconds.toFixed(1)} ms`;
}
