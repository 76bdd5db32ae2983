"""Every error Tailrace raises on purpose: whose fault it is, and which HTTP status says so.

    TailraceError
    ├── RequestError                 the caller's: change the request
    │   ├── InputInvalid       422   input that the operation's types refuse
    │   ├── EventInvalid       422   an event nobody could store or send
    │   ├── KeyReused          422   an Idempotency-Key that already names another request
    │   ├── CursorMalformed    400   a cursor outside the grammar
    │   ├── CursorFromFuture   400   a cursor beyond the end of the log
    │   ├── FormatUnknown      406   a projection that does not exist
    │   ├── OperationUnknown   404
    │   ├── RunUnknown         404   also for a run that belongs to somebody else
    │   ├── PathForbidden      403   a file outside the allowed roots
    │   ├── Unauthorized       401   nobody knows who asks
    │   ├── ScopeMissing       403   who asks may not do that
    │   ├── HostForbidden      403   the server does not answer to that name
    │   ├── OriginForbidden    403   another site's page asks for what starts something
    │   ├── BodyNotJson        415
    │   ├── BodyTooLarge       413
    │   ├── EventTooLarge      413
    │   └── TooManyRequests    429   asked too often, or too many streams are open
    ├── Conflict                     the moment's: what was asked does not fit the state
    │   ├── RunEnded           409   nothing follows a terminal event
    │   ├── RunActive          409   only a finished run can be forgotten
    │   ├── ThreadBusy         409   a run of the thread is going on
    │   ├── StateMoved         409   the state changed first; look again
    │   ├── WriterFenced       409   a newer attempt owns the run
    │   └── ProducerGap        409   a remote producer skipped a sequence number
    ├── LogError                     the store's
    │   ├── LogFull            507   no space left; nothing stored is lost
    │   ├── LogCorrupt         500   stored bytes do not match their checksum
    │   └── LogClosed          503
    ├── BufferFull             503   events are emitted faster than they can be kept
    ├── ProtocolViolation            a peer's, or our own towards the peer
    │   ├── FieldInvalid       422   an id, type or retry that cannot be framed
    │   ├── StreamTooLarge     502   a peer sent an event beyond the bound
    │   └── StreamRefused      502   a server answered something that is not a stream
    ├── ServerUnreachable      502   no server answers where a client was told to look
    ├── SettingsInvalid        500   a server was started with settings it cannot use
    ├── AddressUnusable        500   a server may not, or cannot, listen where it was told to
    ├── ScriptFailed           500   a program exited with a code other than 0, or by a signal
    ├── RunLost                500   what executed the work is gone, and nobody knows its end
    └── RunFailed              500   a run that was waited for did not complete
    RunCancelled                     raised inside the work that is asked to stop

`RunCancelled` is no Exception: somebody's `except Exception` must not swallow the wish to stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar


class TailraceError(Exception):
    """Base of all. `str(error)` says what and why; `fix` says what to do about it.

    `status` is the HTTP status, `code` the stable slug a program may compare, `details`
    become extension members of the problem document (RFC 9457 §3.2).
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong"

    def __init__(self, message: str, *, fix: str = "", **details: Any) -> None:
        super().__init__(message)
        self.fix, self.details = fix, details
        if fix:
            # A traceback shows it as well.
            self.add_note(fix)

    @property
    def headers(self) -> Mapping[str, str]:
        """What the HTTP answer says in its head, by names in lower case."""
        return {}


class RequestError(TailraceError):
    """The caller's request cannot be served as it is."""

    status = 400
    code = "bad-request"
    title = "The request cannot be served as it is"


class InputInvalid(RequestError):
    """Input that the operation's types refuse; `details["errors"]` lists where and why."""

    status = 422
    code = "input-invalid"
    title = "Something in the request does not fit"


class EventInvalid(RequestError):
    """An event whose type or payload cannot be stored or sent."""

    status = 422
    code = "event-invalid"
    title = "The event cannot be kept"


class KeyReused(RequestError):
    """An Idempotency-Key that was used before with a different request."""

    status = 422
    code = "idempotency-key-reused"
    title = "The idempotency key names another request"


class CursorMalformed(RequestError):
    """A cursor that does not match `[epoch-]seq[.frame]`."""

    code = "cursor-malformed"
    title = "The cursor is not one of ours"


class CursorFromFuture(RequestError):
    """A cursor beyond the last event, in an epoch that lost nothing."""

    code = "cursor-from-future"
    title = "The cursor is ahead of the run"


class FormatUnknown(RequestError):
    """A projection or media type that is not offered."""

    status = 406
    code = "format-unknown"
    title = "The format is not offered"


class OperationUnknown(RequestError):
    """No operation has that name."""

    status = 404
    code = "operation-unknown"
    title = "There is no such operation"


class RunUnknown(RequestError):
    """No run has that id, or it belongs to another principal, which must look the same."""

    status = 404
    code = "run-unknown"
    title = "There is no such run"


class PathForbidden(RequestError):
    """A file outside the allowed roots, or not a file at all."""

    status = 403
    code = "path-forbidden"
    title = "That file may not be run"


class Unauthorized(RequestError):
    """A request without a key, or with one that is unknown, revoked or expired."""

    status = 401
    code = "unauthorized"
    title = "Who is asking?"
    # RFC 9110, 11.6.1: it must say how one is asked to identify oneself.
    headers = MappingProxyType({"www-authenticate": 'Bearer realm="tailrace"'})


class ScopeMissing(RequestError):
    """A key that is good, but not for this."""

    status = 403
    code = "scope-missing"
    title = "That key is not for this"


class HostForbidden(RequestError):
    """The request names a host that this server does not answer to."""

    status = 403
    code = "host-forbidden"
    title = "The server does not answer to that name"


class OriginForbidden(RequestError):
    """A page of another site had the browser ask for something that has an effect."""

    status = 403
    code = "origin-forbidden"
    title = "Not from that page"


class BodyNotJson(RequestError):
    """A body of another media type. JSON only: a form is what a foreign page could send."""

    status = 415
    code = "body-not-json"
    title = "The request body must be JSON"


class BodyTooLarge(RequestError):
    """A request body beyond the bound."""

    status = 413
    code = "body-too-large"
    title = "The request body is too large"


class EventTooLarge(RequestError):
    """One event beyond the bound."""

    status = 413
    code = "event-too-large"
    title = "The event is too large"


class TooManyRequests(RequestError):
    """Asked too often; `retry_after`: seconds to wait. `limits`: headers that tell of a rate."""

    status = 429
    code = "too-many-requests"
    title = "Too many requests"

    def __init__(self, message: str, *, retry_after: int = 1, **details: Any) -> None:
        # One that is read back may say anything.
        self.retry_after = max(1, retry_after) if type(retry_after) is int else 1
        super().__init__(message, **details)
        self.limits: Mapping[str, str] = {}

    @property
    def headers(self) -> Mapping[str, str]:
        return {"retry-after": str(self.retry_after), **self.limits}


class Conflict(TailraceError):
    """What was asked does not fit the state the run is in."""

    status = 409
    code = "conflict"
    title = "The run is in another state"


class RunEnded(Conflict):
    """The run has its terminal event; nothing may follow it."""

    code = "run-ended"
    title = "The run has ended"


class RunActive(Conflict):
    """The run is still going, so it cannot be forgotten."""

    code = "run-active"
    title = "The run is still active"


class ThreadBusy(Conflict):
    """Another run of the thread has not ended; `details["run"]` is its id."""

    code = "thread-busy"
    title = "The thread is busy"


class StateMoved(Conflict):
    """A compare-and-set of the run's state lost; `state` is the one found."""

    code = "state-moved"
    title = "The run's state changed first"

    def __init__(self, message: str, *, state: str) -> None:
        super().__init__(message, fix="Read the run again and decide anew.", state=state)
        self.state = state


class WriterFenced(Conflict):
    """A writer of an older attempt, or of a process that was given up for dead."""

    code = "writer-fenced"
    title = "A newer attempt owns the run"


class ProducerGap(Conflict):
    """A remote producer's sequence number is not the next one."""

    code = "producer-gap"
    title = "A producer's sequence number is missing"


class LogError(TailraceError):
    """The event log could not do its work."""

    code = "log-failed"
    title = "The event log failed"


class LogFull(LogError):
    """No space is left for more events. What was acknowledged stays readable."""

    status = 507
    code = "log-full"
    title = "The event log is full"


class LogCorrupt(LogError):
    """Stored bytes do not match their checksum, or the database is malformed."""

    code = "log-corrupt"
    title = "The event log is damaged"


class LogClosed(LogError):
    """The log is not open (yet, or any more)."""

    status = 503
    code = "log-closed"
    title = "The event log is closed"


class BufferFull(TailraceError):
    """Events are emitted faster than they can be committed, without ever awaiting."""

    status = 503
    code = "buffer-full"
    title = "Too many events are waiting to be kept"


class ProtocolViolation(TailraceError):
    """Bytes that break the protocol, ours or a peer's."""

    status = 502
    code = "protocol-violation"
    title = "The protocol was broken"


class FieldInvalid(ProtocolViolation):
    """We were asked to send an id, type or retry that would break the framing."""

    status = 422
    code = "field-invalid"
    title = "The field cannot be sent"


class StreamTooLarge(ProtocolViolation):
    """A peer sent one event, or one line, beyond the bound."""

    code = "stream-too-large"
    title = "An event of the stream is too large"


class StreamRefused(ProtocolViolation):
    """A server answered a request for a stream with something else."""

    code = "stream-refused"
    title = "The server sent no stream"


class ServerUnreachable(TailraceError):
    """Nothing answers at the address a client was given."""

    status = 502
    code = "server-unreachable"
    title = "No server answers there"


class SettingsInvalid(TailraceError):
    """A setting that is unknown or has no sense; the message names it and its source."""

    code = "settings-invalid"
    title = "The settings cannot be used"


class AddressUnusable(TailraceError):
    """An address that is taken, not this machine's, or open to more than this machine."""

    code = "address-unusable"
    title = "The server cannot listen there"


class ScriptFailed(TailraceError):
    """A program did not exit with 0; `details` has `exit_code`, as a shell would give it."""

    code = "script-failed"
    title = "The program failed"


class RunLost(TailraceError):
    """What executed the work is gone. Where work raises it, `details` join the `error` event."""

    code = "run-lost"
    title = "The run was lost"


class RunFailed(TailraceError):
    """A run that was waited for ended as anything but completed."""

    code = "run-failed"
    title = "The run did not complete"


class RunCancelled(BaseException):
    """Raised inside a function that is asked to stop, at its next emit or check."""
