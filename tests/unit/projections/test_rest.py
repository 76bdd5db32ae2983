from __future__ import annotations

import pytest

from tailrace.projections import STREAMS
from tailrace.projections.output import Output
from tailrace.projections.rest import Rest, resting
from tailrace.protocol.blocks import Block
from tailrace.protocol.cursor import Cursor, parse
from tailrace.protocol.sse import Decoder
from tests.turns import SCRIPT, THINKING, block

AGUI = STREAMS["ag-ui"]
# Event 4 opens a thought, which AG-UI does in two.
OPENS = THINKING.index(("thinking_start", {"part": "1.0", "item": 0})) + 1


def ids(wire: bytes) -> list[str]:
    return [event.id for event in Decoder().feed(wire)]


def test_several_frames_of_an_event_have_ids_of_their_own() -> None:
    told = ids(AGUI.tell(block(THINKING), None))
    assert told[: OPENS + 2] == ["1", "2", "3", f"{OPENS}.1", f"{OPENS}", f"{OPENS + 1}"]
    assert ids(AGUI.tell(block(THINKING, epoch=3), None))[3] == f"3-{OPENS}.1"


@pytest.mark.parametrize(
    ("frame", "first"), [(0, f"{OPENS}.1"), (1, f"{OPENS}"), (2, "5"), (9, "5")]
)
def test_only_the_frames_that_are_missing(frame: int, first: str) -> None:
    whole = block(THINKING)
    rest = Rest(AGUI, Cursor(0, OPENS, frame))
    assert ids(rest.tell(whole.after(OPENS - 1), None))[0] == first
    assert rest.tell(whole.after(OPENS), None) == AGUI.tell(whole.after(OPENS), None)


def test_what_stands_before_in_its_block_is_told() -> None:
    told = ids(Rest(AGUI, Cursor(0, OPENS, 1)).tell(block(THINKING), None))
    assert told[:4] == ["1", "2", "3", f"{OPENS}"]


@pytest.mark.parametrize("mine", [0, 1, 3])
def test_an_event_of_another_epoch_is_another_event(mine: int) -> None:
    """A log that lost its end has given the number to something else: nobody had a part of it."""
    after = block(THINKING, epoch=2)
    assert Rest(AGUI, Cursor(mine, OPENS, 1)).tell(after, None) == AGUI.tell(after, None)


def test_a_filter_goes_on_filtering() -> None:
    types = frozenset({"text_chunk", "thinking_start"})
    rest = Rest(AGUI, Cursor(0, OPENS, 1)).tell(block(THINKING), types)
    assert ids(rest) == [f"{OPENS}", *ids(AGUI.tell(block(THINKING).after(OPENS), types))]


def test_it_is_only_for_those_who_have_a_part() -> None:
    for cursor in ("latest", parse("4"), parse("2-4")):
        assert resting(AGUI, cursor) is AGUI
    assert isinstance(resting(AGUI, parse("4.1")), Rest)


@pytest.mark.parametrize("plain", [STREAMS["ndjson"], Output()])
def test_without_frames_an_event_comes_whole(plain: Output) -> None:
    assert resting(plain, parse("2.1")) is plain


def test_its_bytes_are_shared_with_nobody_who_has_another_part() -> None:
    names = {Rest(AGUI, parse(text)).name for text in ("4.1", "4.2", "5.1", "1-4.1")}
    assert len({AGUI.name, *names}) == 5


def test_the_rest_is_as_it_was() -> None:
    rest = Rest(AGUI, parse("4.1"))
    assert rest.control("gap", {"from": 2}) == AGUI.control("gap", {"from": 2})
    assert rest.closing(500) == AGUI.closing(500)
    assert (rest.opening, rest.heartbeat, rest.media_type) == (
        AGUI.opening, AGUI.heartbeat, AGUI.media_type,
    )  # fmt: skip


def test_an_empty_line_in_a_text_ends_no_frame() -> None:
    said = [("start", {}), ("output", {"text": "a\n\n\nb"}), ("log", {"message": "c"})]
    whole: Block = block(said)
    rest = Rest(STREAMS["text"], parse("2.1")).tell(whole.after(1), None)
    assert ids(rest) == ["3"]
    assert ids(Rest(STREAMS["text"], parse("1.1")).tell(block(SCRIPT), None))[0] == "2"
