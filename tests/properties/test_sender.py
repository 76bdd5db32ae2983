"""Whatever becomes of its requests, a producer's events are in the log once, and in their order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tailrace.client.sender import Sender
from tailrace.errors import Conflict, WriterFenced
from tailrace.eventlog.contract import Append, Producer, Standing, admit
from tailrace.protocol.events import Draft, to_json
from tailrace.protocol.lifecycle import State

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Server:
    """A run, as any log keeps it: the rule of admission is the real one."""

    kept: list[int] = field(default_factory=list)
    positions: dict[str, tuple[int, int]] = field(default_factory=dict)
    most: int = 1_000_000

    def hear(self, content: bytes) -> Answer:
        """Answer a request."""
        if len(content) > self.most:
            return 413, {}, b"<html>too large</html>"
        told: dict[str, Any] = json.loads(content)
        drafts = tuple(Draft(e["type"], to_json(e["data"])) for e in told["events"])
        who = told["producer"]
        producer = Producer(who["id"], who["epoch"], who["seq"])
        append = Append("r", drafts, producer=producer if drafts else None)
        try:
            new = admit(Standing(State.RUNNING, 1), append, self.positions.get(producer.id))
        except Conflict as error:
            problem = {"code": error.code, "detail": str(error), "fix": error.fix, **error.details}
            return 409, {"content-type": "application/problem+json"}, to_json(problem)
        if new:
            self.positions[producer.id] = (producer.epoch, producer.seq + len(drafts) - 1)
            self.kept += [json.loads(draft.data)["n"] for draft in new]
        return 200, {}, to_json({"appended": len(new), "last_event_id": "1", "state": "running"})


@dataclass
class Trouble:
    """What happens to one request."""

    kind: str
    chance: float = 0.5


KINDS = ["lost", "answer lost", "answered late", "busy", "slow down", "reset"]
TROUBLES = st.lists(st.builds(Trouble, st.sampled_from([*KINDS, "none"]), st.floats(0, 1)))


@dataclass
class Way:
    """Between a producer and the server. A request that nobody waits for any more may still
    arrive: `stray` are those that do, in any order, between others.
    """

    server: Server
    troubles: list[Trouble]
    stray: list[bytes] = field(default_factory=list)

    def send(self, sender: Sender, content: bytes, now: float) -> None:
        trouble = self.troubles.pop(0) if self.troubles else Trouble("none")
        if trouble.kind == "answered late":
            self.stray.append(content)
        elif self.stray and trouble.chance > 0.5:
            self.server.hear(self.stray.pop(round(trouble.chance * 1000) % len(self.stray)))
        match trouble.kind:
            case "lost" | "answered late":
                sender.unanswered("lost", now, trouble.chance)
            case "answer lost" | "reset":
                self.server.hear(content)
                sender.unanswered("cut", now, trouble.chance)
            case "busy":
                self.answer(sender, (503, {}, b""), now, trouble.chance)
            case "slow down":
                self.answer(sender, (429, {"retry-after": "2"}, b""), now, trouble.chance)
            case _:
                self.answer(sender, self.server.hear(content), now, trouble.chance)

    @staticmethod
    def answer(sender: Sender, answer: Answer, now: float, chance: float) -> None:
        sender.answered(*answer, now=now, wall_clock=0.0, chance=chance)


class Worker:
    """Emits 1, 2, 3, … as it comes to it, and sends."""

    def __init__(self, way: Way, events: Sequence[int], size: int = 1, **who: Any) -> None:
        self.way = way
        self.left = list(events)
        self.text = "x" * size
        self.now = 0.0
        self.sender = Sender("worker", now=0.0, **who)

    def emit(self, count: int) -> None:
        for _ in range(min(count, len(self.left))):
            self.sender.put(Draft("row", to_json({"n": self.left.pop(0), "text": self.text})))

    def turn(self) -> None:
        """One step, whenever it is due."""
        match self.sender.step(self.now):
            case bytes() as content:
                self.way.send(self.sender, content, self.now)
            case float() as seconds:
                assert 0 < seconds < 5.01
                self.now += seconds

    @property
    def is_done(self) -> bool:
        return not self.left and not self.sender.held

    def finish(self) -> None:
        for _ in range(2000):
            self.emit(1)
            self.turn()
            if self.is_done or self.sender.error is not None:
                return
        raise AssertionError("it goes on for ever")


def rows(count: int) -> list[int]:
    return list(range(1, count + 1))


PACES = st.lists(st.integers(0, 5), max_size=30)


@given(st.integers(0, 40), TROUBLES, PACES, st.sampled_from([1, 300]), st.integers(400, 3000))
def test_each_event_once_and_in_order(
    count: int, troubles: list[Trouble], paces: list[int], size: int, most: int
) -> None:
    server = Server(most=most if size > 1 else 1_000_000)
    worker = Worker(Way(server, troubles), rows(count), size)
    for pace in paces:
        worker.emit(pace)
        worker.turn()
    worker.finish()
    assert worker.sender.error is None
    assert server.kept == rows(count)
    assert worker.sender.kept == count
    # What is still on its way can do no harm.
    for content in worker.way.stray:
        server.hear(content)
    assert server.kept == rows(count)


@given(st.integers(1, 30), st.lists(st.tuples(TROUBLES, PACES), max_size=4), TROUBLES)
def test_work_that_is_done_again_after_it_was_killed(
    count: int, lives: list[tuple[list[Trouble], list[int]]], troubles: list[Trouble]
) -> None:
    server = Server()
    stray: list[bytes] = []
    for there, paces in lives:
        worker = Worker(Way(server, there, stray), rows(count))
        for pace in paces:
            worker.emit(pace)
            worker.turn()
        stray = worker.way.stray
    # The last one lives.
    worker = Worker(Way(server, troubles, stray), rows(count))
    worker.finish()
    assert worker.sender.error is None
    assert server.kept == rows(count)


@given(TROUBLES, TROUBLES, PACES, st.lists(st.booleans(), max_size=60))
def test_who_comes_later_shuts_out_who_was_before(
    first: list[Trouble], second: list[Trouble], paces: list[int], order: list[bool]
) -> None:
    server = Server()
    zombie = Worker(Way(server, first), rows(20))
    heir = Worker(Way(server, second), [100 + n for n in rows(20)], epoch=1)
    for pace in paces:
        zombie.emit(0 if zombie.sender.error else pace)
        zombie.turn()
    for is_heir in order:
        worker = heir if is_heir else zombie
        if worker.sender.error is None:
            worker.emit(1)
            worker.turn()
    heir.finish()
    for content in zombie.way.stray + heir.way.stray:
        server.hear(content)
    before = [n for n in server.kept if n < 100]
    assert server.kept == before + [100 + n for n in rows(20)]
    assert before == rows(len(before))
    if not zombie.is_done:
        for _ in range(200):
            if zombie.sender.error is None:
                zombie.emit(1)
                zombie.turn()
        assert isinstance(zombie.sender.error, WriterFenced)
    assert server.kept == before + [100 + n for n in rows(20)]


@given(
    st.lists(
        st.tuples(st.integers(100, 599), st.binary(max_size=100), st.floats(0, 1)), max_size=20
    )
)
def test_garbage_never_raises(answers: list[tuple[int, bytes, float]]) -> None:
    sender, now = Sender("p", now=0.0), 0.0
    sender.put(Draft("log", b"{}"))
    for status, body, chance in answers:
        step = sender.step(now)
        if isinstance(step, bytes):
            sender.answered(status, {}, body, now=now, wall_clock=0.0, chance=chance)
        elif step is not None:
            now += step
    assert sender.held in (0, 1)
