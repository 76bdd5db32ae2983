"""Whatever happens on the way, the watcher is told the log: exactly, once, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tailrace.client.reconnect import Again, Fail, Stop, Watch, WatchedEvent
from tailrace.errors import TailraceError
from tailrace.protocol.cursor import Extent, Kind, parse, resume
from tailrace.protocol.events import TERMINAL_TYPES, to_json
from tailrace.protocol.sse import comment, encode, retry

STREAM = {"content-type": "text/event-stream"}
TYPES = ["log", "progress", "output"]


@dataclass
class Kept:
    """One event of the log."""

    epoch: int
    seq: int
    type: str

    @property
    def id(self) -> str:
        return f"{self.epoch}-{self.seq}" if self.epoch else str(self.seq)

    @property
    def wire(self) -> bytes:
        return encode(to_json({"n": self.id}), id=self.id, event=self.type)


@dataclass
class Log:
    """A run as the server has it: what was trimmed is gone, `base` is what a loss left."""

    kept: list[Kept]
    trimmed: int = 0
    base: int = 0

    @property
    def epoch(self) -> int:
        return self.kept[-1].epoch

    def stream(self, after: str, types: str | None) -> list[bytes] | None:
        """The frames for a watcher with that cursor; None is 204."""
        last = len(self.kept)
        is_ended = self.kept[-1].type in TERMINAL_TYPES
        extent = Extent(self.trimmed + 1, last, is_ended, self.epoch, self.base)
        start = resume(parse(after), extent)
        if start.kind is Kind.FINISHED:
            return None
        frames = [b""]
        if start.lost is not None:
            lost = {"run": "r", "from": start.lost[0], "to": start.lost[1]}
            kind = "reset" if start.kind is Kind.RESET else "gap"
            frames.append(encode(to_json(lost), event=kind))
        if start.after < self.trimmed and start.kind is not Kind.GONE:
            lost = {"from": start.after + 1, "to": self.trimmed}
            frames.append(encode(to_json(lost), event="gap"))
        wanted = None if types is None else TERMINAL_TYPES.union(types.split(","))
        told = self.kept[max(start.after, self.trimmed) :]
        return frames + [kept.wire for kept in told if wanted is None or kept.type in wanted]


@dataclass
class Trouble:
    """What happens to one attempt."""

    kind: str
    share: float = 1.0
    back: int = 0
    at: int = 0


TROUBLES = st.builds(
    Trouble,
    kind=st.sampled_from(
        [
            "unreachable",
            "busy",
            "cut",
            "ended",
            "replayed",
            "stuttering",
            "holed",
            "garbled",
            "stale",
        ]
    ),
    share=st.floats(0, 1),
    back=st.integers(0, 30),
    at=st.integers(0, 30),
)


def spoilt(frames: list[bytes], log: Log, trouble: Trouble) -> list[bytes]:
    """The frames, as something between the server and the watcher makes of them."""
    at = min(trouble.at, len(frames) - 1)
    match trouble.kind:
        case "stale":
            cached = log.stream("0", None) or []
            return cached[: trouble.at] + frames
        case "replayed":
            return frames[:at] + frames[max(0, at - trouble.back) :]
        case "stuttering":
            return [frame for frame in frames for _ in range(2)]
        case "holed":
            return frames[:at] + frames[at + 1 :]
        case "garbled":
            return [*frames[:at], frames[at].replace(b"{", b"["), *frames[at + 1 :]]
        case _:
            return frames


def chunked(wire: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    return [wire[a:b] for a, b in pairwise(edges)]


def follow(
    watch: Watch, log: Log, troubles: list[Trouble], cuts: list[int], chance: float
) -> tuple[list[WatchedEvent], Stop | TailraceError]:
    """Drive the watch until it stops; after the troubles all is well."""
    told: list[WatchedEvent] = []
    left = list(troubles)
    for _ in range(len(troubles) + 5):
        request = watch.request(0.0)
        trouble = left.pop(0) if left else Trouble("none")
        after = request.headers.get("last-event-id") or request.params["after"]
        frames = log.stream(after, request.params.get("types"))
        broken = ""
        if trouble.kind == "unreachable":
            broken = "refused"
        elif trouble.kind == "busy":
            watch.opened(503, {"retry-after": "1"}, 0.0)
        elif frames is None:
            watch.opened(204, {}, 0.0)
        else:
            assert watch.opened(200, STREAM, 0.0)
            wire = comment("tailrace") + retry(1000)
            wire += comment("keep-alive").join(spoilt(frames, log, trouble)) + comment("end")
            if trouble.kind in ("cut", "ended"):
                wire = wire[: round(len(wire) * trouble.share)]
                broken = "cut" if trouble.kind == "cut" else ""
            for chunk in chunked(wire, cuts):
                told += watch.feed(chunk)
        match watch.ended(0.0, chance, broken):
            case Again(seconds):
                assert 0.0 <= seconds <= 30.0
            case Fail(error):
                return told, error
            case Stop() as stop:
                return told, stop
    raise AssertionError("it goes on for ever")


@st.composite
def logs(draw: st.DrawFn) -> Log:
    types = draw(st.lists(st.sampled_from(TYPES), max_size=20))
    end = draw(st.sampled_from(sorted(TERMINAL_TYPES)))
    return Log([Kept(0, seq, type) for seq, type in enumerate([*types, end], 1)])


def spaced(troubles: list[Trouble]) -> list[Trouble]:
    """Disorder now and then: the third in a row at one place is rightly a failure."""
    disorders = [t for t in troubles if t.kind in ("holed", "garbled", "stale")]
    return [t for t in troubles if t not in disorders[2:]]


CUTS = st.lists(st.integers(0, 10_000), max_size=30)
SOME_TROUBLES = st.lists(TROUBLES, max_size=12).map(spaced)
CHANCE = st.floats(0, 1, exclude_max=True)


@given(logs(), SOME_TROUBLES, CUTS, CHANCE)
def test_exactly_the_log(log: Log, troubles: list[Trouble], cuts: list[int], chance: float) -> None:
    told, end = follow(Watch(), log, troubles, cuts, chance)
    assert [(e.id, e.type, e.data) for e in told] == [
        (kept.id, kept.type, {"n": kept.id}) for kept in log.kept
    ]
    assert end == Stop(log.kept[-1].type)


@given(logs(), st.data(), SOME_TROUBLES, CUTS, CHANCE)
def test_exactly_the_rest(
    log: Log, data: st.DataObject, troubles: list[Trouble], cuts: list[int], chance: float
) -> None:
    after = data.draw(st.integers(0, len(log.kept)))
    told, end = follow(Watch(after=after), log, troubles, cuts, chance)
    assert [e.id for e in told] == [kept.id for kept in log.kept[after:]]
    assert isinstance(end, Stop)


@given(logs(), st.data(), SOME_TROUBLES, CUTS, CHANCE)
def test_exactly_what_was_kept_and_one_gap_for_the_rest(
    log: Log, data: st.DataObject, troubles: list[Trouble], cuts: list[int], chance: float
) -> None:
    log.trimmed = data.draw(st.integers(0, len(log.kept) - 1))
    told, end = follow(Watch(), log, troubles, cuts, chance)
    gaps = [(e.data["from"], e.data["to"]) for e in told if e.type == "gap"]
    assert gaps == ([(1, log.trimmed)] if log.trimmed else [])
    assert [e.id for e in told if e.id] == [kept.id for kept in log.kept[log.trimmed :]]
    assert not log.trimmed or told[0].type == "gap"
    assert isinstance(end, Stop)


@given(logs(), st.sets(st.sampled_from(TYPES)), st.lists(TROUBLES, max_size=12), CUTS, CHANCE)
def test_exactly_the_types_wanted(
    log: Log, types: set[str], troubles: list[Trouble], cuts: list[int], chance: float
) -> None:
    # What a filter leaves out cannot be told from what a proxy swallows or a cache brings up.
    troubles = [t for t in troubles if t.kind not in ("holed", "garbled", "stale")]
    told, end = follow(Watch(types=types), log, troubles, cuts, chance)
    wanted = types | TERMINAL_TYPES
    assert [e.id for e in told] == [kept.id for kept in log.kept if kept.type in wanted]
    assert isinstance(end, Stop)


@given(logs(), st.data(), SOME_TROUBLES, CUTS, CHANCE)
def test_after_a_failover_the_lost_tail_is_taken_back_once(
    log: Log, data: st.DataObject, troubles: list[Trouble], cuts: list[int], chance: float
) -> None:
    seen = data.draw(st.integers(0, len(log.kept) - 1), label="seen")
    base = data.draw(st.integers(0, len(log.kept) - 1), label="base")
    watch = Watch()
    watch.request(0.0)
    watch.opened(200, STREAM, 0.0)
    told = watch.feed(b"".join(kept.wire for kept in log.kept[:seen]))
    watch.ended(0.0, chance, "failover")
    log.kept[base:] = [Kept(1, base + 1 + n, k.type) for n, k in enumerate(log.kept[base:])]
    log.base = base
    more, end = follow(watch, log, troubles, cuts, chance)
    resets = [(e.data["from"], e.data["to"]) for e in more if e.type == "reset"]
    assert resets == ([(base + 1, seen)] if seen > base else [])
    ids = [e.id for e in more if e.id]
    assert ids == [kept.id for kept in log.kept[min(seen, base) :]]
    assert [e.id for e in told] == [str(n) for n in range(1, seen + 1)]
    assert isinstance(end, Stop)


@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(100, 599), CHANCE)
def test_garbage_never_raises(chunks: list[bytes], status: int, chance: float) -> None:
    watch = Watch()
    watch.request(0.0)
    watch.opened(status, STREAM, 0.0)
    for chunk in chunks:
        watch.feed(chunk)
    assert isinstance(watch.ended(0.0, chance), Again | Fail | Stop)
