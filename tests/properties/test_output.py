"""A program's text says the same however it is cut, and nothing in it raises."""

from __future__ import annotations

import itertools
import re
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tailrace.protocol.events import draft
from tailrace.runners.forms import KINDS
from tailrace.runners.markers import Said
from tailrace.runners.output import Reading

LINES = [
    "Epoch 1:  30%|███       | 3/10 [00:01<00:02,  1.9it/s]",
    "x:  24%|██▍       | 1.2k/5.0k [00:00<00:00, 6.3Mrow/s, acc=5/10]",
    "120it [00:03, 39.1it/s]",
    "\x1b[2KWork \x1b[31m━━━━━\x1b[0m\x1b[38;5;237m╺━━\x1b[0m \x1b[35m 60%\x1b[0m 0:00:01",
    "Down ━━━━━━━━ 25.0/50.0 MB 62.3 MB/s",
    " 32/469 [=>.......] - ETA: 1s",
    "numpy ----- 12.00 MiB/16.00 MiB",
    " 30% (3 of 10) |###   | Elapsed",
    "[3/10] Building foo.o",
    "Step 4/8: Compiling",
    "Epoch 3/10 - loss 0.5",
    "Epoch 3/10.5",
    "3 of 10\x1b[0m5 files",
    "3 of 10/5",
    "2026/11/20 or 11/20/2026",
    "[10/3]",
    "::progress 3/10 half",
    "::progress x",
    "::log info x",
    "::result {}",
    "::result [1, 2",
    "r(601);",
    ". [7/10]",
]
SYLLABLES = [
    "1", "3/10", "/", " of ", "%", "%|", "|", "[", "]", "(", ")", "━", " ", ".", ",", "\x1b",
    "\x1b[0m", "step ", "Step 1/2: ", "epoch ", "::", "::progress ", "::log info ", "::result ",
    "it [0:01, ", "k", "iB", "r(1);", "\n", "\r", "\r\n", "é",
]  # fmt: skip

texts = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(SYLLABLES)
    | st.sampled_from(LINES)
)
ends = st.sampled_from(["\n", "\r", "\r\n", ""])
written = st.lists(st.tuples(texts, ends), max_size=12).map(
    lambda parts: "".join(itertools.chain.from_iterable(parts))
)


def made() -> Reading:
    return Reading(progress=KINDS, failure=re.compile(r"r\(\d+\);"), ignore=re.compile(r"\. "))


def whole(reading: Reading, pieces: list[str]) -> list[Said]:
    said = [event for piece in pieces for event in reading.feed("stdout", piece, 5.0)]
    return said + reading.end(5.0)


def gist(reading: Reading, said: list[Said]) -> dict[str, Any]:
    """What must be the same: how often progress is told in between may differ."""
    progress = [payload for type, payload in said if type == "progress"]
    return {
        "progress": progress[-1:],
        "others": [event for event in said if event[0] != "progress"],
        "failure": reading.failure,
        "result": (reading.has_result, reading.result),
    }


@given(written, st.data())
@example("\r[3/10] x\rEpoch 3/10.5\n", None)
def test_wherever_the_text_is_cut(text: str, data: st.DataObject | None) -> None:
    expected = made()
    told = gist(expected, whole(expected, [text]))
    if data is None:
        edges = list(range(len(text) + 1))
    else:
        cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
        edges = sorted([0, *cuts, len(text)])
    reading = made()
    said = whole(reading, [text[a:b] for a, b in itertools.pairwise(edges)])
    assert gist(reading, said) == told


@given(written)
@example("\rEpoch 3/10 - loss 0.5:[0/0]\n")
def test_letter_by_letter(text: str) -> None:
    expected, reading = made(), made()
    told = gist(expected, whole(expected, [text]))
    assert gist(reading, whole(reading, list(text))) == told


@given(written.map(lambda text: text.replace("\r", "")))
def test_both_ends_of_a_line_are_the_same(text: str) -> None:
    one, other = made(), made()
    dos = text.replace("\n", "\r\n")
    told = whole(one, list(text))
    assert whole(other, list(dos)) == told
    assert gist(other, told) == gist(one, told)


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), written, st.floats(0, 0.1))))
def test_all_that_is_said_can_be_kept(pieces: list[tuple[str, str, float]]) -> None:
    reading = made()
    at, last = 0.0, -1.0
    for stream, text, pause in pieces:
        at += pause
        said = reading.feed(stream, text, at)
        due = reading.due(at)
        if due is not None and pause > 0.05:
            said += reading.held(due)
            at = due
        for type, payload in said:
            draft(type, payload, at)
        if any(type == "progress" for type, _ in said):
            last = at
    for type, payload in reading.end(at):
        draft(type, payload, at)
    assert last <= at
    assert reading.due(at) is None
