// So many frames without an id are remembered, and so many bytes of them.
const MAX_FRAMES = 1000;
const MAX_BYTES = 1024 * 1024;

/**
 * What was forwarded since the last frame with an id. A frame without one belongs to the next
 * that has one: where the connection is lost in between, both come again, and one is known.
 */
export class Trail {
  /** @type {Uint8Array[]} */
  #forwarded = [];
  /** @type {Uint8Array[]} */
  #expected = [];
  #bytes = 0;

  /** @param {import("./frames.js").Frame} frame */
  knows({ bytes, id }) {
    if (id !== undefined) {
      this.#forwarded = [];
      this.#expected = [];
      this.#bytes = 0;
      return false;
    }
    // Some of what is expected may not come: what a server says of the stream is said once.
    const at = this.#expected.findIndex((one) => isSame(one, bytes));
    if (at >= 0) {
      this.#expected.splice(0, at + 1);
      return true;
    }
    this.#bytes += bytes.length;
    if (this.isWhole) this.#forwarded.push(bytes);
    return false;
  }

  /** A connection begins. */
  rewind() {
    this.#expected = [...this.#forwarded];
  }

  /** Whether every frame had an id. */
  get isEmpty() {
    return !this.#bytes;
  }

  /** Whether all of it would be known again. */
  get isWhole() {
    return this.#bytes <= MAX_BYTES && this.#forwarded.length < MAX_FRAMES;
  }
}

/**
 * @param {Uint8Array} one
 * @param {Uint8Array} other
 */
function isSame(one, other) {
  return one.length === other.length && one.every((byte, n) => byte === other[n]);
}
