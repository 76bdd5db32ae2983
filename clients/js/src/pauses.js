// How long to wait before a stream is asked for again. No clock, no dice: both are arguments.

/** The shortest pause that a server may ask for, in milliseconds. */
export const SHORTEST_ASKED = 50;

/** Longer than that nobody waits for a stream, whoever asks for it: ten minutes. */
export const LONGEST_ASKED = 600_000;

/**
 * Milliseconds to wait.
 * @param {object} now
 * @param {number} now.tries attempts since the last frame
 * @param {number} now.base the reconnection time: what the server said, else our own
 * @param {number} now.longest the longest that doubling leads to
 * @param {number} [now.asked] what the server asked for by Retry-After
 * @param {boolean} [now.isInvited] whether the server ended the stream itself and said when to
 *   come back
 * @param {number} now.chance evenly from 0 to 1, anew each time
 */
export function pause({ tries, base, longest, asked, isInvited = false, chance }) {
  if (asked !== undefined) return asked + chance * Math.min(base, longest);
  if (isInvited && !tries) return Math.min(base, longest);
  // Full jitter: a thousand watchers of a server that comes back must not come at once.
  return chance * Math.min(longest, base * 2 ** Math.min(tries, 30));
}

/**
 * A Retry-After header in milliseconds (RFC 9110, 10.2.3): seconds, or a date.
 * @param {string | null} header
 * @param {number} now milliseconds since 1970
 * @returns {number | undefined}
 */
export function retryAfter(header, now) {
  const text = header?.trim();
  if (!text) return undefined;
  if (/^[0-9]{1,9}$/.test(text)) return Number(text) * 1000;
  // Date.parse reads too much ("-5" is a year): a date of HTTP begins with a day's name.
  const at = /^[A-Z][a-z]{2}/.test(text) ? Date.parse(text) : NaN;
  return Number.isNaN(at) ? undefined : Math.max(0, at - now);
}
