"""Headers, media types and bounds that the HTTP face and the clients agree on."""

from __future__ import annotations

from typing import Final

EVENT_STREAM: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
JSON: Final = "application/json"
TEXT: Final = "text/plain"
PROBLEM: Final = "application/problem+json"

STREAM_HEADERS: Final = (
    # `no-transform` keeps compressing proxies (Traefik, Caddy, CDNs) from holding events
    # back; nginx buffers whatever does not carry X-Accel-Buffering: no.
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
    # Another site cannot have a stream in the process of its page, as an image or a script that
    # is none. Whoever asks by CORS (fetch, EventSource) is not asked about this (Fetch, "HTTP
    # fetch": it is checked for opaque responses alone).
    (b"cross-origin-resource-policy", b"same-origin"),
)

RETRY_MS: Final = 1000
"""The reconnection time a stream asks for, in milliseconds."""

RETRY_AFTER_SHUTDOWN_MS: Final = 500
"""The same, said to watchers of a server that goes away: it is likely to be back soon."""

HEARTBEAT_SECONDS: Final = 15.0
"""Silence after which a comment is sent. Proxies commonly cut at 29 to 60 s."""

WRITE_DEADLINE_SECONDS: Final = 25.0
"""How long one send may be held up by a watcher that does not read: it is gone 30 s after its
last byte, with what the kernels take before anything is held up."""

MAX_BODY_BYTES: Final = 1024 * 1024
"""Bound of a request body, in bytes."""

LAST_EVENT_ID: Final = "last-event-id"
RUN: Final = "tailrace-run"
IDEMPOTENCY_KEY: Final = "idempotency-key"
