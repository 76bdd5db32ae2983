from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tailrace.errors import SettingsInvalid
from tailrace.protocol.events import MAX_EVENT_BYTES, draft
from tailrace.runners.forms import KINDS
from tailrace.runners.markers import LINE, Said
from tailrace.runners.output import PAUSE_SECONDS, Reading

BAR = "━" * 16


def read(*pieces: str, stream: str = "stdout", **options: Any) -> list[Said]:
    """All that is said, with a second between two pieces."""
    reading = Reading(**options)
    said = [event for at, piece in enumerate(pieces) for event in reading.feed(stream, piece, at)]
    return said + reading.end(len(pieces))


def progress(*pieces: str, **options: Any) -> list[dict[str, Any]]:
    said = read(*pieces, **options)
    assert {type for type, _ in said} <= {"progress"}
    return [payload for _, payload in said]


def of(current: float, total: float, message: str | None = None) -> dict[str, Any]:
    told = {"current": current, "total": total, "percent": round(100 * current / total, 1)}
    return told if message is None else {**told, "message": message}


# ---------------------------------------------------------------- lines as tools print them

SHOWN: list[tuple[str, dict[str, Any]]] = [
    # tqdm
    ("Epoch 1:  30%|███       | 3/10 [00:00<00:00, 33.03it/s]", of(3, 10, "Epoch 1")),
    ("Epoch 1:   0%|          | 0/10 [00:00<?, ?it/s]", of(0, 10, "Epoch 1")),
    ("100%|#########################| 3/3 [00:03<00:00,  1.20s/it]", of(3, 3)),
    ("a: b:  67%|\x1b[32m██████▋   \x1b[0m| 2/3 [00:00<00:00, 49.10it/s]", of(2, 3, "a: b")),
    ("x:  24%|██▍       | 1.2k/5.0k [00:00<00:00, 6.3Mrow/s, acc=5/10]", of(1200, 5000, "x")),
    ("x:  24%|██▍       | 12.0M/50.0MB [00:02<00:06, 5.9MB/s]", of(12_000_000, 50_000_000, "x")),
    ("bf:  33%|███▎      | 1/3", of(1, 3, "bf")),
    ("120it [00:03, 39.1it/s]", {"current": 120}),
    ("over: 12it [00:00, 470389.23it/s]           ", {"current": 12, "message": "over"}),
    ("1.20kB [00:03, 400B/s]", {"current": 1200}),
    ("120 files [1:00:03, 1.20s/ files]", {"current": 120}),
    ("inner:  50%|█████     | 1/2 [00:00<00:00, 49.53it/s]\x1b[A", of(1, 2, "inner")),
    # rich
    (
        "\x1b[2KWorking... \x1b[38;5;1m━━━\x1b[0m\x1b[38;5;237m╺\x1b[0m \x1b[35m60%\x1b[0m 0:00:01",
        {"percent": 60, "message": "Working..."},
    ),
    (
        f"Working... {BAR}                  60% 0:00:01",
        {"percent": 60, "message": "Working..."},
    ),
    (f"\x1b[2KFiles {BAR}          8/10  80% 0:00:01", of(8, 10, "Files")),
    (f"Working... {BAR}╸━━━ 4/10 0:00:03", of(4, 10, "Working...")),
    (f"⠸ B {BAR} 5/50 ", of(5, 50, "B")),
    # pip, uv, wget
    (f"   {BAR} 12.5/50.0 MB 62.3 MB/s eta 0:00:01", of(12.5, 50.0)),
    (
        "numpy      ------------------------------ 12.00 MiB/16.00 MiB",
        of(12 * 1024**2, 16 * 1024**2, "numpy"),
    ),
    (
        "file.tgz      45%[=======>        ]  12.0M  5.1MB/s    eta 3s",
        {"percent": 45, "message": "file.tgz"},
    ),
    # progressbar2, alive-progress
    (" 30% (3 of 10) |#######            | Elapsed Time: 0:00:00 ETA: 0:00:00", of(3, 10)),
    ("|████████                      | ▂▄▆ 2/10 [20%] in 0s (~0s, 19.9/s) ", of(2, 10)),
    # cargo, ninja, keras
    (
        "    Building [=======>               ] 45/120: serde(build), syn",
        of(45, 120, "Building"),
    ),
    ("[3/10] Building CXX object src/foo.cc.o", of(3, 10, "Building CXX object src/foo.cc.o")),
    ("[3 of 10] Linking", of(3, 10, "Linking")),
    ("[ 3/10] Linking", of(3, 10, "Linking")),
    (" 32/469 [=>............................] - ETA: 1s - loss: 2.3", of(32, 469)),
    ("\x1b[1m 32/469\x1b[0m ━━━━━━━━━━━━━━━━━━━━ 2s 5ms/step - accuracy: 0.1", of(32, 469)),
    ("Epoch 1/5", of(1, 5, "Epoch")),
    # counts
    ("[3/10]", of(3, 10)),
    ("(3/10)", of(3, 10)),
    ("Compiling foo (3/10)", of(3, 10, "Compiling foo")),
    ("Iteration 3/10, loss 0.5", of(3, 10, "Iteration")),
    ("Epoch 3/10 - loss: 0.31", of(3, 10, "Epoch")),
    ("EPOCH: 3/10", of(3, 10, "EPOCH")),
    ("Processing file 3/10", of(3, 10, "Processing file")),
    ("Files processed: 3 / 10", of(3, 10, "Files processed")),
    ("batch #3/10", of(3, 10, "batch")),
    ("Chunk number 3/10.", of(3, 10, "Chunk number")),
    ("Progress: 3/10", of(3, 10, "Progress")),
    ("Task 1/2: done", of(1, 2, "Task")),
    ("Copied 3 of 10 files", of(3, 10, "Copied")),
    ("3 of 10", of(3, 10)),
    # steps
    ("Step 4 of 8", of(4, 8, "Step")),
    ("Step 4/8: Compiling", {**of(4, 8), "step": "Compiling"}),
    ("Step 4/8 : RUN pip install x", {**of(4, 8), "step": "RUN pip install x"}),
    ("STEP 4/8", of(4, 8, "STEP")),
    # the first that has sense
    ("[0/0] Epoch 3/10", of(3, 10, "[0/0] Epoch")),
]

SILENT = [
    "",
    "nothing at all",
    "2026/11/20 10:00:03 started",
    "2009/11/10 23:00:00 http: 3/10/2026 is a date",
    "due 11/20/2026",
    "1/2",
    "about 1/2 of the files, and 3/4 of the rows",
    "a/3/10/b",
    "/var/log/3/10",
    "reading data/in/2026/11/20/part-00012.parquet, 88 % of it",
    "file 3/10.csv",
    "page 10/3",
    "[10/3] too many",
    "12 of 10",
    "[0/0]",
    "a footstep 3/10",
    "a/3 of 10",
    "a/3/10 ━━━━",
    "99%|█████ | 999P/999P [00:01<00:02]",
    "list[3/10]",
    "f(3/10)",
    "Epoch 3/10/4",
    "Step 11/20/2026",
    "see rfc 1.3 of 10.4.2",
    "CPU 100%",
    "tests/test_x.py .......                                    [ 45%]",
    "127.0.0.1/24 is up",
    "network 10.0.0.0/8 (private)",
    "HTTP/1.1 200 of nothing",
    "step by step/2",
    "range [0, 1], out of it",
    "12345678901234567890 of 12345678901234567891",
    "loss: 3/10",
    "http://host/step 3/a",
]


@pytest.mark.parametrize(("line", "expected"), SHOWN)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
def test_progress_that_tools_print(line: str, expected: dict[str, Any], end: str) -> None:
    assert progress(line + end) == [expected]


@pytest.mark.parametrize("line", SILENT)
def test_text_that_is_no_progress(line: str) -> None:
    assert progress(line + "\n", "\r" + line, "\r") == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tests/test_x.py ....     [ 45%]", {"percent": 45, "message": "tests/test_x.py ...."}),
        ("45.5 %", {"percent": 45.5}),
        ("done: 45%", {"percent": 45, "message": "done"}),
        ("CPU 100%", {"percent": 100, "message": "CPU"}),
        ("up by 250%", None),
        ("1.45.2%", None),
        ("[3/10] at 45%", of(3, 10, "at 45%")),
    ],
)
def test_a_percent_alone_must_be_asked_for(line: str, expected: dict[str, Any] | None) -> None:
    told = [] if expected is None else [expected]
    assert progress(line + "\n", progress=KINDS) == told
    if expected is not None and "current" not in expected:
        assert progress(line + "\n") == []


def test_only_the_kinds_that_are_asked_for() -> None:
    lines = "1%|  | 1/100 [0:00\n", "[2/100]\n", "Step 3/100: x\n"

    def found(*kinds: str) -> list[int]:
        return [payload["current"] for payload in progress(*lines, progress=kinds)]

    assert found("bar", "count", "step") == found("step", "count", "bar") == [1, 2, 3]
    assert found("bar") == [1]
    assert found("count") == [2, 3]
    assert found("step") == [3]
    assert found() == []
    with pytest.raises(SettingsInvalid, match="'bars' is no kind"):
        Reading(progress=("bars",))


def test_a_progress_can_be_kept() -> None:
    for line, _ in SHOWN:
        for type, payload in read(line):
            draft(type, payload, 0.0)


def test_whole_numbers_stay_whole() -> None:
    (told,) = progress("[3/10]")
    assert isinstance(told["current"], int)
    assert isinstance(told["total"], int)
    (told,) = progress(f"{BAR} 12.0/50.0 MB")
    assert isinstance(told["current"], float)
    assert told["percent"] == 24.0


def test_labels_are_bounded() -> None:
    (told,) = progress("[1/2] " + "x" * 500)
    assert told["message"] == "x" * 200
    (told,) = progress("Step 1/2: " + "x" * 500)
    assert told["step"] == "x" * 200


# ---------------------------------------------------------------- patterns of one's own


def test_patterns_of_ones_own_come_first() -> None:
    pattern = re.compile(r"at (?P<current>\w+)(?:/(?P<total>\w+))?(?: (?P<step>\w+))?")
    patterns = [pattern, re.compile(r"(?P<percent>[\d.]+) pct (?P<message>.*)")]
    assert progress("x at 3/10 load [4/10]", patterns=patterns) == [{**of(3, 10), "step": "load"}]
    assert progress("at 3", patterns=patterns) == [{"current": 3}]
    assert progress("12.34 pct  of it ", patterns=patterns) == [
        {"percent": 12.3, "message": "of it"}
    ]
    assert progress("[4/10]", patterns=patterns, progress=()) == []


@pytest.mark.parametrize(
    "line", ["at home [3/10]", "at 3/x", "at 10/3", "at 9" + "9" * 20, "at 1_0"]
)
def test_a_group_that_is_no_number_tells_nothing(line: str) -> None:
    patterns = [re.compile(r"at (?P<current>\w+)(?:/(?P<total>\w+))?")]
    assert progress(line, patterns=patterns) == []


def test_a_pattern_without_an_amount_tells_nothing() -> None:
    assert progress("hello 3", patterns=[re.compile(r"(?P<message>hello) (?P<total>\d+)")]) == []


# ---------------------------------------------------------------- markers


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("::progress 3/10 half a way", of(3, 10, "half a way")),
        ("::progress 3 / 10", of(3, 10)),
        ("::progress 45% nearly", {"percent": 45, "message": "nearly"}),
        ("::progress 45.55 %", {"percent": 45.5}),
        ("::progress 3 rows", {"current": 3, "message": "rows"}),
        ("::progress 2.5", {"current": 2.5}),
        ("::progress 0/0", {"current": 0, "total": 0}),
        # It said so itself: a total is often an estimate.
        ("::progress 12/10", {"current": 12, "total": 10, "percent": 100.0}),
        ("\x1b[0m::progress 3  ", {"current": 3}),
    ],
)
def test_progress_markers(line: str, expected: dict[str, Any]) -> None:
    assert progress(line + "\n") == progress(line + "\n", progress=()) == [expected]


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_log_markers(level: str) -> None:
    assert read(f"::log {level}  so [3/10] it is \n") == [
        ("log", {"level": level, "message": "so [3/10] it is"})
    ]


def test_other_spellings_of_levels() -> None:
    assert read("::log WARN x") == [("log", {"level": "warning", "message": "x"})]
    assert read("::log Error x") == [("log", {"level": "error", "message": "x"})]


def test_a_log_message_is_bounded() -> None:
    ((_, payload),) = read("::log info " + "x" * 10_000)
    assert payload["message"] == "x" * 4096


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, null, "é"]}', {"a": [1, 2.5, None, "é"]}),
        ("3", 3),
        ("null", None),
        ('"text"', "text"),
        (" false ", False),
        ("12345678901234567890", 12345678901234567890),
    ],
)
def test_result_markers(text: str, value: Any) -> None:
    reading = Reading()
    assert reading.feed("stdout", f"::result 1\n::result {text}\n", 0.0) == [
        ("result", {"result": 1}),
        ("result", {"result": value}),
    ]
    assert (reading.has_result, reading.result) == (True, value)


@pytest.mark.parametrize(
    ("line", "form"),
    [
        ("::progress", "3/10 message"),
        ("::progress soon", "3/10 message"),
        ("::progress 3/x", "3/10 message"),
        ("::progress -3", "3/10 message"),
        ("::progress 101%", "3/10 message"),
        ("::progress NaN", "3/10 message"),
        ("::progress 1e5", "3/10 message"),
        ("::progress " + "9" * 400, "3/10 message"),
        ("::log", "one of debug, info"),
        ("::log loud x", "one of debug, info"),
        ("::result", "JSON"),
        ("::result {", "JSON"),
        ("::result NaN", "JSON"),
        ("::result [-Infinity]", "JSON"),
        ("::result 1e999", "JSON"),
        ("::result " + "9" * 30, "JSON"),
        ("::result " + "9" * 5000, "JSON"),
        ("::result " + "[" * 8000, "JSON"),
        ("::result " + "[" * 500 + "]" * 500, "JSON"),
        ('::result "\\ud800"', "JSON"),
        ('::result "' + "x" * LINE + '"', "JSON, on a line of at most 16,384 characters"),
    ],
)
def test_a_malformed_marker_is_a_warning(line: str, form: str) -> None:
    reading = Reading()
    ((type, payload),) = reading.feed("stdout", line + "\n", 0.0)
    assert (type, payload["level"]) == ("log", "warning")
    word = line.split(maxsplit=1)[0]
    assert payload["message"].startswith(word)
    assert f"Write {word} " in payload["message"]
    assert form in payload["message"]
    assert len(payload["message"]) < 500
    assert not reading.has_result


@pytest.mark.parametrize(
    "line",
    ["::", "::progress3/10", "::progress: 3", " ::progress 3", "x ::log info y", "::result::x",
     "::log::Logger", "::group::x", ":progress 3", "::PROGRESS 3"],
)  # fmt: skip
def test_what_is_no_marker_is_only_output(line: str) -> None:
    assert read(line + "\n") == []


def test_an_unknown_word_may_tell_progress_like_any_line() -> None:
    assert progress("::group::Step 1/3\n") == [of(1, 3, "::group::Step")]


def test_the_longest_result_can_be_kept() -> None:
    value = "\\u0001" * ((LINE - 20) // 6)
    ((type, payload),) = read(f'::result "{value}"')
    assert type == "result"
    assert len(draft(type, payload, 0.0).data) < MAX_EVENT_BYTES


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_are_put_together(size: int) -> None:
    text = "::log info one\r\n::log info zwei é\n::result {}\r::log info last"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert read(*pieces) == read(text)
    assert [type for type, _ in read(text)] == ["log", "log", "result", "log"]


def test_streams_are_apart() -> None:
    reading = Reading()
    assert reading.feed("stdout", "::log info o", 0.0) == []
    assert reading.feed("stderr", "::log info e", 0.0) == []
    assert reading.feed("stdout", "ut\n", 0.0) == [("log", {"level": "info", "message": "out"})]
    assert reading.end(0.0) == [("log", {"level": "info", "message": "e"})]
    assert reading.end(0.0) == []


def test_the_beginning_of_a_long_line_is_looked_at() -> None:
    long = "::log info " + "x" * LINE
    reading = Reading(failure=re.compile("far"))
    for _ in range(4):
        assert reading.feed("stdout", long, 0.0) == []
    assert len(reading._lines["stdout"].rest) == LINE
    ((_, payload),) = reading.feed("stdout", "far\n[3/10]\n", 0.0)[:1]
    assert payload["message"].startswith("xxx")
    assert reading.failure is None
    assert read(" " * LINE + "[3/10]\n") == []
    assert progress("[3/10]" + " " * LINE + "\n[4/10]\n")[0] == of(3, 10)


def test_other_separators_end_no_line() -> None:
    text = "::log info a\x0bb\x0cc\x85d\u2028e"
    assert read(text) == [("log", {"level": "info", "message": text[11:]})]


# ---------------------------------------------------------------- a bar's unfinished line


def test_a_bar_with_its_return_in_front_is_seen_before_its_next() -> None:
    reading = Reading()
    assert reading.feed("stderr", "\r 30%|███       | 3/10 [00:01<00:02]", 0.0) == [
        ("progress", of(3, 10))
    ]
    assert reading.feed("stderr", "\r", 1.0) == []
    ((_, told),) = reading.feed("stderr", " 40%|████      | 4/10 [00:01<00:02]", 1.0)
    assert told["current"] == 4


@pytest.mark.parametrize("rest", ["Epoch 3/1", "Epoch 3/10", "Epoch 3/10.", "Epoch 3/10,", "[3/1",
                                  "3 of 10", f"{BAR} 3/10", f"{BAR} 3/10\x1b[3", "::progress 3",
                                  "1%|  | 1/5.0k"])  # fmt: skip
def test_what_may_be_cut_short_waits(rest: str) -> None:
    reading = Reading()
    assert reading.feed("stdout", "\r" + rest, 0.0) == []
    assert [type for type, _ in reading.end(1.0)] in (["progress"], [])


def test_only_a_redrawn_line_is_looked_at_before_its_end() -> None:
    for start in ("", "x\n", "x\r\n"):
        reading = Reading()
        assert reading.feed("stdout", start + "[3/10] x", 0.0) == []
        assert len(reading.end(0.0)) == 1
    for start in ("x\r", "\rx"):
        reading = Reading()
        assert reading.feed("stdout", start, 0.0) == []
        assert reading.feed("stdout", "\n[3/10] x", 0.0) == []
    reading = Reading()
    assert reading.feed("stdout", "\r::log info [3/10] x", 0.0) == []
    assert [type for type, _ in reading.end(0.0)] == ["log"]


def test_a_pattern_of_ones_own_is_looked_for_there_too() -> None:
    pattern = re.compile(r"^\s*\|[= ]*\|\s*(?P<percent>\d{1,3})%")
    reading = Reading(patterns=[pattern])
    said = reading.feed("stdout", "\r  |====      |  40%", 0.0)
    assert said == [("progress", {"percent": 40})]


# ---------------------------------------------------------------- ignoring and failing


@pytest.mark.parametrize(
    ("pieces", "failure"),
    [
        ((". display 1\nfile not found\nr(601);",), "r(601);"),
        (("r(601)", "; and more\n", "end of do-file\n"), "r(601);"),
        ((". r(1);\n> r(2);\nor r(3);\n",), None),
        (("r(601);\nr(198);\n. r(1);\nend of do-file\n",), "r(198);"),
        (("\x1b[31mr(9);\x1b[0m\r\n",), "r(9);"),
    ],
)
def test_the_last_failure_is_kept(pieces: tuple[str, ...], failure: str | None) -> None:
    reading = Reading(failure=re.compile(r"^r\(\d+\);"), ignore=re.compile(r"[.>] "))
    assert [event for piece in pieces for event in reading.feed("log", piece, 0.0)] == []
    assert reading.end(0.0) == []
    assert reading.failure == failure


def test_no_line_is_not_an_empty_line() -> None:
    reading = Reading(failure=re.compile("^$"))
    reading.feed("stdout", "x\n", 0.0)
    reading.end(0.0)
    assert reading.failure is None


def test_a_failure_is_seen_only_once_its_line_has_ended() -> None:
    reading = Reading(failure=re.compile("failed$"))
    reading.feed("stdout", "\rfailed", 0.0)
    reading.feed("stdout", " not\n", 0.0)
    reading.end(0.0)
    assert reading.failure is None


def test_ignored_lines_say_nothing() -> None:
    ignore = re.compile(r"[.>] |::")
    text = ". display [3/10]\n> 4 of 10\n::log info x\n\r. [5/10] x"
    assert read(text, ignore=ignore) == []
    assert progress("in . [3/10]\n", ignore=ignore) == [of(3, 10, "in .")]


# ---------------------------------------------------------------- how often, and how long still


def test_what_comes_too_fast_is_held_back() -> None:
    reading = Reading()
    assert reading.due(0.0) is None
    assert reading.feed("o", "[1/9]\n[2/9]\n[3/9]\n", 10.0) == [("progress", of(1, 9))]
    assert reading.due(10.0) == 10.0 + PAUSE_SECONDS
    assert reading.due(11.0) == 11.0
    assert reading.feed("o", "[4/9]\n", 10.01) == []
    ((_, told),) = reading.held(10.05)
    assert told["current"] == 4
    assert reading.due(10.06) is None
    assert reading.held(10.06) == []
    assert reading.feed("o", "[5/9]\n", 10.06) == []
    ((_, told),) = reading.feed("o", "something else\n", 10.2)
    assert told["current"] == 5
    assert reading.end(11.0) == []


def test_the_end_of_a_bar_is_told_at_once() -> None:
    reading = Reading()
    reading.feed("o", "[1/3]\n", 0.0)
    ((_, told),) = reading.feed("o", "[2/3]\n[3/3]\n", 0.01)
    assert told == {**of(3, 3), "eta_seconds": 0.0}
    assert reading.due(0.01) is None
    reading = Reading(progress=KINDS)
    reading.feed("o", "50%\n", 0.0)
    assert len(reading.feed("o", "100%\n", 0.01)) == 1


def test_a_flood_of_short_bars_is_held_back() -> None:
    reading = Reading()
    told = reading.feed("o", "".join(f"[{n}/3] {k}\n" for k in range(999) for n in (1, 3, 3)), 0.0)
    assert len(told) == 2
    assert len(reading.end(0.0)) == 1
    reading = Reading()
    assert len(reading.feed("o", "[1/9]\n[1/3]\n[3/3]\n", 0.0)) == 1
    assert reading.end(0.0) == [("progress", of(3, 3))]


def test_the_same_is_told_once() -> None:
    reading = Reading()
    assert len(reading.feed("o", "[1/3]\n[1/3]\n", 0.0)) == 1
    assert reading.due(0.0) is None
    assert reading.feed("o", "[1/3]\n", 1.0) == []
    assert reading.feed("o", "[2/3]\n", 2.0) != []
    assert reading.feed("o", "[3/3]\n[2/3]\n", 2.0) != []
    assert reading.feed("o", "[2/3]\n", 9.0) != []


def test_what_is_held_comes_before_a_log_or_a_result() -> None:
    reading = Reading()
    text = "[1/9]\n[2/9]\n::log info x\n[3/9]\n::result 1\n[4/9]\n::log bad\n[5/9]\n"
    said = reading.feed("o", text, 0.0) + reading.end(0.0)
    assert [payload.get("current", type) for type, payload in said] == [
        1, 2, "log", 3, "result", 4, "log", 5,
    ]  # fmt: skip


def test_how_long_it_still_takes() -> None:
    told = progress("[2/10]\n", "[3/10]\n", "[3/10] x\n", "[6/10]\n", "[10/10]\n")
    assert [payload.get("eta_seconds") for payload in told] == [None, 7.0, 14.0, 3.0, 0.0]
    told = progress("::progress 20%\n", "::progress 50%\n", "::progress 60%\n")
    assert [payload.get("eta_seconds") for payload in told] == [None, 1.7, 2.0]
    told = progress("::progress 1\n", "::progress 2\n")
    assert [payload.get("eta_seconds") for payload in told] == [None, None]


@pytest.mark.parametrize(
    "lines",
    [
        ("[2/10]\n", "[4/10]\n", "[1/10]\n", "[2/10]\n"),
        ("[2/10]\n", "[4/10]\n", "[5/20]\n", "[6/20]\n"),
        ("Step 2/9: a\n", "Step 3/9: a\n", "Step 4/9: b\n", "Step 5/9: b\n"),
    ],
)
def test_a_new_bar_has_a_pace_of_its_own(lines: tuple[str, ...]) -> None:
    told = progress(*lines)
    has_pace = ["eta_seconds" in payload for payload in told]
    assert has_pace == [False, True, False, True]
    last = told[-1]
    assert last["eta_seconds"] == float(last["total"] - last["current"])


# ---------------------------------------------------------------- attackers

FRAGMENTS = [
    "1", "1/", "1/1", "[", "[1/", "(", "1 ", "1 of ", "1%", "1%|", "%|", "|", "━", "━ ", " ", "[=",
    "[=] ", "step ", "step 1/", "file a", "files ed ", "1.", "1iB/", "\x1b", "\x1b[1", "\x1b]8;",
    "1a [0:", "1it [00:00, ", "9" * 15, " / ", "- ", "::log ",
]  # fmt: skip


# CPU time, of which the worst of these lines needs some 10 ms; a pattern that is quadratic
# needs near a second for the line it stumbles on.
ENOUGH_SECONDS = 0.25


def test_no_line_takes_long() -> None:
    reading = Reading(progress=KINDS)
    needles = " of / % , %| %[ iB/ %] in [= ] ━ % ( "
    slow = []
    for unit in (a + b for a in FRAGMENTS for b in FRAGMENTS):
        line = (needles + unit * LINE)[:LINE]
        start = time.process_time()
        reading.feed("o", line + "\n\r" + line[-1000:], 0.0)
        reading.feed("o", "\n", 0.0)
        if time.process_time() - start > ENOUGH_SECONDS:
            slow.append(unit)
    assert slow == []
