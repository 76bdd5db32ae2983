/** What is told before each attempt to go on. */
export interface Reconnecting {
  /** Which attempt since the last frame, from 1. */
  try: number;
  /** How long is waited for it, in milliseconds. */
  pause: number;
  /** The cursor that is asked from; empty for all of it. */
  lastEventId: string;
  /** Why: what cut the stream, or what the attempt before came to. */
  cause: unknown;
}

export interface HealingOptions {
  /** What to send requests with. Default: the global `fetch`, as it is at the time. */
  fetch?: typeof globalThis.fetch;
  /** Attempts in a row that may fail; a frame that arrives starts the count anew. Default 8. */
  tries?: number;
  /**
   * The first pause, in milliseconds, where the server names none by `retry:`; each further one
   * is twice as long, and a random part of it is waited. Default 200.
   */
  firstPause?: number;
  /** The longest pause, in milliseconds, that doubling leads to. Default 30,000. */
  longestPause?: number;
  /**
   * After so many milliseconds without a byte, not even a heartbeat, the connection counts as
   * lost; so does an attempt without an answer. 0 for never. Default 45,000.
   */
  silence?: number;
  /** Called before each attempt. */
  onReconnect?: (about: Reconnecting) => void;
}

/**
 * A `fetch` whose event streams go on after a dropped connection, without a frame lost or
 * doubled, for any client that takes a `fetch`.
 *
 * An answer of type `text/event-stream` with a `Content-Location` at the origin that was asked
 * is read in whole frames. When it ends without the server's closing comment `: end`, the rest
 * is asked for: GET Content-Location with `Last-Event-ID`, and with the request's own headers
 * and credentials. All other answers are returned as they came.
 *
 * The body fails with `StreamLost` when the server refuses, or when all tries are spent; with
 * the signal's reason as soon as the signal is aborted.
 */
export function healingFetch(options?: HealingOptions): typeof globalThis.fetch;

/** A stream that cannot be gone on with. */
export class StreamLost extends TypeError {
  constructor(
    message: string,
    about?: { lastEventId?: string; status?: number; cause?: unknown },
  );
  readonly name: "StreamLost";
  /** The cursor of the last frame that came; empty if none did. */
  readonly lastEventId: string;
  /** The status of the answer that was final; undefined when no server answered. */
  readonly status: number | undefined;
}
