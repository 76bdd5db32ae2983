"""GET /runs/{id}/output: a program's own bytes."""

import pytest

from tailrace.eventlog.contract import Retention
from tests.stage import Stage, staged
from tests.visitor import Visitor

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("query", "expected", "start"),
    [
        ("", b"one\noops\n\xff\ntw\xc3\xb6\r\nthree", b"0"),
        ("?stream=stdout", b"one\n\xff\ntw\xc3\xb6\r\nthree", b"0"),
        ("?stream=stderr", b"oops\n", b"0"),
        # Event 1 is the start, 2 the first output.
        ("?after=3", b"\xff\ntw\xc3\xb6\r\nthree", b"3"),
    ],
)
async def test_the_bytes(
    stage: Stage, visitor: Visitor, query: str, expected: bytes, start: bytes
) -> None:
    run = await stage.start("write")
    await stage.ended(run)
    answer = await visitor.get(f"/runs/{run}/output{query}")
    assert (answer.status, answer.body) == (200, expected)
    assert sorted(answer.raw_headers) == [
        (b"cache-control", b"no-cache, no-transform"),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"last-event-id", start),
        (b"x-accel-buffering", b"no"),
        (b"x-content-type-options", b"nosniff"),
    ]


async def test_output_is_live(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    visit = visitor.open("GET", f"/runs/{run}/output?stream=stdout")
    stage.emit(run, "output", stream="stdout", text="work")
    await visit.told(b"work")
    stage.emit(run, "output", stream="stderr", text="no")
    stage.emit(run, "output", stream="stdout", text="ing\n")
    await visit.told(b"working\n")
    stage.finish(run)
    await visit.over()
    assert visit.body == b"working\n"
    assert visit.is_complete


async def test_nothing_is_put_between_the_bytes(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    visit = visitor.open("GET", f"/runs/{run}/output")
    stage.emit(run, "output", stream="stdout", text="one ")
    await visit.told(b"one")
    for count in range(1, 5):
        stage.beat(16 * count)
    stage.emit(run, "output", stream="stdout", text="line\n")
    stage.finish(run)
    await visit.over()
    assert visit.body == b"one line\n"


async def test_a_keep_alive_in_the_midst_of_history_does_not_stop_it(
    stage: Stage, visitor: Visitor
) -> None:
    # A slow reader: the timer looks in between two chunks of a run that is long over.
    run = await stage.written(
        [("output", {"stream": "stdout", "text": "x" * 200_000}, 1) for _ in range(4)], ends=2
    )
    read = stage.log.read
    reads = 0

    async def beaten(*asked: object) -> object:
        nonlocal reads
        reads += 1
        stage.beat(16.0 * reads)
        return await read(*asked)  # type: ignore[arg-type]

    stage.log.read = beaten  # type: ignore[method-assign, assignment]
    answer = await visitor.get(f"/runs/{run}/output")
    assert reads > 1
    assert len(answer.body) == 800_000


async def test_there_is_no_output_of_what_has_none(stage: Stage, visitor: Visitor) -> None:
    run = await stage.done("count", rows=3)
    answer = await visitor.get(f"/runs/{run}/output")
    assert (answer.status, answer.body, answer.is_complete) == (200, b"", True)
    answer = await visitor.get(f"/runs/{run}/output?after=latest")
    assert (answer.status, answer.body) == (204, b"")


async def test_missing_output_is_not_passed_over_in_silence() -> None:
    async with staged(retention=Retention(run_events=4)) as stage:
        told = [("output", {"stream": "stdout", "text": f"{n}\n"}, n) for n in range(9)]
        run = await stage.written(told, ends=10)
        first = (await stage.runs.record(run)).first_seq
        answer = await stage.visitor.get(f"/runs/{run}/output")
        gap = f"\n[tailrace: events 1 to {first - 1} are no longer kept]\n"
        assert answer.text == gap + "".join(f"{n}\n" for n in range(first - 1, 9))


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [("stream=both", 422, "input-invalid"), ("stream=", 422, "input-invalid"),
     ("after=x", 400, "cursor-malformed"), ("after=9", 400, "cursor-from-future")],
)  # fmt: skip
async def test_what_is_refused(
    stage: Stage, visitor: Visitor, query: str, status: int, code: str
) -> None:
    run = await stage.written(ends=1)
    answer = await visitor.get(f"/runs/{run}/output?{query}")
    assert (answer.status, answer.json["code"]) == (status, code)
