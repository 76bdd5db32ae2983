"""What goes in and out, as models: the requests are checked by them, the answers documented."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tailrace.http.asking import TICKS
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import THREAD

MAX_EVENTS: Final = 1000
"""How many events one request may add."""

_Json = dict[str, Any]

# ------------------------------------------------------------------ requests

_EXACT: Final = 2**53
_MAX_STRAY: Final = 20


class _Asked(BaseModel):
    # Strict: "30" is no number, and true is not 1.
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _is_moderate(cls, given: Any) -> Any:
        # Of each unknown field there would be an error; a body has room for 90,000 of them.
        most = len(cls.model_fields) + _MAX_STRAY
        if isinstance(given, dict) and len(given) > most and cls.model_config["extra"] == "forbid":
            raise PydanticCustomError(
                "many_fields", "It has more than {most} fields", {"most": most}
            )
        return given


# For the same reason: nothing is said of those behind the first that is wrong.
_FIRST: Final = FailFast()

_TIMEOUT: Final[Any] = Field(
    None, description="Seconds after which the run ends as timed_out", examples=[60]
)
_ABANDON_AFTER: Final[Any] = Field(
    None,
    description="Seconds without any watcher after which the run is cancelled",
    examples=[300],
)


class StartRun(_Asked):
    """What to run."""

    operation: str = Field(max_length=200, examples=["script"])
    input: _Json = Field(default_factory=dict, examples=[{"file": "hello.py"}])
    timeout: float | None = _TIMEOUT
    abandon_after: float | None = _ABANDON_AFTER
    thread: str | None = Field(
        None,
        pattern=THREAD,
        description="What it belongs to: of your runs with the same one, one goes on at a time",
        examples=["chat-7"],
    )


class RunFile(_Asked):
    """A script to run, and how to tell of it."""

    file_path: str = Field(
        max_length=4096,
        description="The script, relative to one of the folders that the server allows",
        examples=["hello.py"],
    )
    args: Annotated[list[str | int | float], _FIRST] = Field(
        default_factory=list,
        max_length=1000,
        description="What the script is called with, in this order",
        examples=[["--epochs", "3"]],
    )
    profile: str | None = Field(
        None, max_length=200, description="How to run it, if the file's suffix does not say"
    )
    stderr: Literal["separate", "merge"] | None = Field(
        None, description="Whether stderr is kept apart from stdout, or its lines in their order"
    )
    timeout: float | None = _TIMEOUT
    abandon_after: float | None = _ABANDON_AFTER
    tick: float = Field(
        2,
        ge=TICKS[0],
        le=TICKS[1],
        description="Seconds of silence after which the elapsed time is told, and told again",
    )
    format: str | None = Field(
        None,
        description="How the events are told; without it text, or lines of JSON to whoever "
        "accepts only those",
        json_schema_extra={"enum": ["text", "events", "typed", "ndjson", "jsonrpc"]},
    )


class RemoteEvent(_Asked):
    """An event of a remote producer. The terminal types are Tailrace's own."""

    # Documented here, checked with the other rules for types by `protocol.events`.
    type: str = Field(
        json_schema_extra={"pattern": "^[A-Za-z][A-Za-z0-9_.:/-]{0,63}$"}, examples=["progress"]
    )
    data: _Json = Field(default_factory=dict, examples=[{"current": 3, "total": 10}])


def _integral(given: Any) -> Any:
    # JSON knows only numbers, and JSON Schema calls 1.0 an integer.
    return int(given) if isinstance(given, float) and given.is_integer() else given


_Whole = Annotated[int, BeforeValidator(_integral)]


class RemoteProducer(_Asked):
    """Who sends, and the number of the first event sent, counted from 1 in each epoch."""

    id: str = Field(min_length=1, max_length=100, examples=["worker-7"])
    epoch: _Whole | None = Field(
        None,
        ge=0,
        le=_EXACT,
        description="A higher one takes the place of a lower one; without it, the attempt",
        examples=[0],
    )
    seq: _Whole = Field(ge=1, le=_EXACT, examples=[1])


class AppendEvents(_Asked):
    """Events to add to a run. `attempt` fences: an older attempt's are refused. Without any, how
    the run stands is answered.
    """

    events: Annotated[list[RemoteEvent], _FIRST] = Field(max_length=MAX_EVENTS)
    attempt: _Whole | None = Field(None, ge=1, le=_EXACT, examples=[1])
    producer: RemoteProducer | None = None


class AskTicket(_Asked):
    """Which run a ticket is for."""

    run: str = Field(max_length=200, examples=["run_abcdefghijklmnopqrstuvwxyz"])


# ------------------------------------------------------------------ answers


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Links(_Told):
    """Where the run's parts are."""

    self: str = Field(examples=["/runs/run_abcdefghijklmnopqrstuvwxyz"])
    events: str
    output: str
    cancel: str


class RunSnapshot(_Told):
    """A run as it is now."""

    id: str = Field(pattern="^run_[a-z2-7]{26}$", examples=["run_abcdefghijklmnopqrstuvwxyz"])
    operation: str
    thread: str | None = Field(description="What it belongs to; null for a run of its own")
    state: State
    input: _Json
    created_at: str = Field(json_schema_extra={"format": "date-time"})
    started_at: str | None = Field(json_schema_extra={"format": "date-time"})
    ended_at: str | None = Field(json_schema_extra={"format": "date-time"})
    duration_seconds: float | None
    timeout: float | None
    abandon_after: float | None
    attempt: int
    position: int | None = Field(description="The place in the queue: 1 is next; null once begun")
    progress: _Json | None = Field(description="The newest progress event's data")
    result: Any = Field(description="What the operation returned")
    error: _Json | None = Field(description="What the error event says")
    last_event_id: str = Field(description="What to send as Last-Event-ID", examples=["57"])
    links: Links


class Ticket(_Told):
    """Lets one connection watch one run."""

    ticket: str
    expires_in: float = Field(description="Seconds", examples=[60])
    url: str = Field(description="The stream's address, with the ticket")


class RunsPage(_Told):
    """Runs, newest first."""

    runs: list[RunSnapshot]
    next: str | None = Field(description="The `cursor` of the following page, or null")


class Offered(_Told):
    """Something that can be run."""

    name: str
    description: str
    input: _Json = Field(description="The JSON Schema of the input")
    timeout: float | None
    abandon_after: float | None


class OperationList(_Told):
    """What can be run."""

    operations: list[Offered]


class Told(_Told):
    """One event."""

    id: str = Field(examples=["57"])
    type: str = Field(examples=["progress"])
    data: _Json


class Gap(_Told):
    """Events that are no longer kept, both ends included."""

    first: int = Field(alias="from")
    last: int = Field(alias="to")


class EventsPage(_Told):
    """A page of events."""

    events: list[Told]
    next: str = Field(description="What to give as `after` for the following page")
    finished: bool = Field(description="Whether nothing will ever come after this page")
    gap: Gap | None = None


class Appended(_Told):
    """What became of the events sent."""

    appended: int = Field(description="How many were new: 0 for a repeated request")
    last_event_id: str = Field(description="The run's last event")
    state: State = Field(description="Of the run; `cancelling`: the work is to stop")


class Problem(BaseModel):
    """RFC 9457: what went wrong, why, and what to do about it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:tailrace:run-unknown"])
    title: str
    status: int
    code: str = Field(description="A stable word to compare", examples=["run-unknown"])
    detail: str
    fix: str
