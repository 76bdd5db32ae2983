/**
 * A stream that cannot be gone on with. It is a TypeError because that is what `fetch` raises
 * where there is no connection, and what clients look for to tell a disconnect from a fault.
 */
export class StreamLost extends TypeError {
  /**
   * @param {string} message
   * @param {{ lastEventId?: string, status?: number, cause?: unknown }} [about]
   */
  constructor(message, { lastEventId = "", status, cause } = {}) {
    super(message, { cause });
    this.name = "StreamLost";
    this.lastEventId = lastEventId;
    this.status = status;
  }
}
