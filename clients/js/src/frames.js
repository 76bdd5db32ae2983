// Cuts the bytes of an event stream (WHATWG HTML, 9.2) into whole frames. It works on bytes, so
// a character that two chunks share is never looked at in halves. No I/O, no clock.

const LF = 10;
const CR = 13;
const COLON = 58;
const BOM = [0xef, 0xbb, 0xbf];

/** How large a frame may get, in bytes. Nobody's peer may fill our memory. */
export const MAX_FRAME_BYTES = 16 * 1024 * 1024;

// A byte order mark is one only at the very beginning, where it is looked for.
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/**
 * What is found in a stream: a frame with its bytes (LF line ends, the blank line included) and
 * the id that it sets, if it does; a comment; or a reconnection time.
 * @typedef {{ bytes: Uint8Array, id: string | undefined }} Frame
 * @typedef {{ comment: string }} Comment
 * @typedef {{ retry: number }} Retry
 * @typedef {Frame | Comment | Retry} Found
 */

export class Frames {
  /** The block being read. Comments and `retry:` lines take effect at once and are not kept. */
  #block = new Uint8Array(1024);
  #length = 0;
  #lineAt = 0;
  #afterCr = false;
  #isFirstLine = true;
  /** @type {string | undefined} */
  #id;
  #most;

  constructor(most = MAX_FRAME_BYTES) {
    this.#most = most;
  }

  /**
   * What the chunk completes, in order. What is left of a frame when a stream ends is nothing:
   * there is no flush.
   * @param {Uint8Array} chunk
   * @returns {Found[]}
   */
  push(chunk) {
    /** @type {Found[]} */
    const found = [];
    const bytes = this.#withoutCr(chunk);
    let from = 0;
    for (let at = bytes.indexOf(LF); at >= 0; at = bytes.indexOf(LF, from)) {
      this.#append(bytes.subarray(from, at));
      from = at + 1;
      const one = this.#line();
      if (one) found.push(one);
    }
    this.#append(bytes.subarray(from));
    return found;
  }

  /** @param {Uint8Array} chunk */
  #withoutCr(chunk) {
    if (!chunk.length || (!this.#afterCr && !chunk.includes(CR))) return chunk;
    const bytes = new Uint8Array(chunk.length);
    let length = 0;
    let afterCr = this.#afterCr;
    for (const byte of chunk) {
      // A CR ends its line at once: the LF that may follow can be minutes away.
      if (byte !== LF || !afterCr) bytes[length++] = byte === CR ? LF : byte;
      afterCr = byte === CR;
    }
    this.#afterCr = afterCr;
    return bytes.subarray(0, length);
  }

  /** @param {Uint8Array} bytes */
  #append(bytes) {
    const length = this.#length + bytes.length;
    if (length > this.#most) throw new RangeError(`A frame exceeds ${this.#most} bytes.`);
    // One more, for the line end.
    if (length >= this.#block.length) {
      const larger = new Uint8Array(2 * (length + 1));
      larger.set(this.#block.subarray(0, this.#length));
      this.#block = larger;
    }
    this.#block.set(bytes, this.#length);
    this.#length = length;
  }

  /** @returns {Found | undefined} */
  #line() {
    if (this.#isFirstLine) {
      this.#isFirstLine = false;
      if (BOM.every((byte, n) => n < this.#length && this.#block[n] === byte)) {
        this.#block.copyWithin(0, BOM.length, this.#length);
        this.#length -= BOM.length;
      }
    }
    const line = this.#block.subarray(this.#lineAt, this.#length);
    if (!line.length) return this.#dispatch();
    if (line[0] === COLON) {
      this.#length = this.#lineAt;
      return { comment: decoder.decode(line.subarray(1)).replace(/^ /, "") };
    }
    const [name, value] = field(line);
    if (name === "retry") {
      this.#length = this.#lineAt;
      // More digits than that are no time that a timer knows.
      return /^[0-9]{1,9}$/.test(value) ? { retry: Number(value) } : undefined;
    }
    if (name === "id" && !value.includes("\0")) this.#id = value;
    this.#block[this.#length++] = LF;
    this.#lineAt = this.#length;
    return undefined;
  }

  /** @returns {Frame | undefined} */
  #dispatch() {
    const length = this.#length;
    const id = this.#id;
    this.#length = this.#lineAt = 0;
    this.#id = undefined;
    if (!length) return undefined;
    const bytes = this.#block.slice(0, length + 1);
    bytes[length] = LF;
    return { bytes, id };
  }
}

/**
 * A line as its field's name and value.
 * @param {Uint8Array} line
 * @returns {[string, string]}
 */
function field(line) {
  const at = line.indexOf(COLON);
  if (at < 0) return [decoder.decode(line), ""];
  // A long payload is nobody's name, id or time, and need not become text here.
  const name = decoder.decode(line.subarray(0, at));
  if (name === "data") return [name, ""];
  return [name, decoder.decode(line.subarray(at + 1)).replace(/^ /, "")];
}

/**
 * A frame's fields as a reader of it gets them; without `data` it is not told of the frame.
 * @param {Uint8Array} bytes
 */
export function fields(bytes) {
  const data = [];
  let event = "message";
  let id = "";
  for (const line of decoder.decode(bytes).split("\n")) {
    const at = line.indexOf(":");
    const name = at < 0 ? line : line.slice(0, at);
    const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
    if (name === "data") data.push(value);
    else if (name === "event") event = value || "message";
    else if (name === "id") id = value;
  }
  return { event, id, data: data.length ? data.join("\n") : undefined };
}
