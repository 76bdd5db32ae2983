import pytest

from tailrace.cli.render import (
    Look,
    Sieve,
    age,
    amount,
    clip,
    duration,
    ending,
    exit_code,
    fault,
    fraction,
    plain,
    status,
    table,
    waiting,
)
from tailrace.errors import TailraceError

PLAIN = Look()
COLOUR = Look(colour=True)
ASCII = Look(unicode=False)

# ------------------------------------------------------------------ exit codes


@pytest.mark.parametrize(
    ("state", "error", "code"),
    [
        ("completed", None, 0),
        ("failed", {"exit_code": 7}, 7),
        ("failed", {"exit_code": 137}, 137),
        ("failed", {}, 1),
        ("failed", None, 1),
        ("timed_out", {"reason": "timed_out"}, 124),
        ("cancelled", None, 130),
        ("lost", {}, 125),
        ("running", None, 0),
        ("a state to come", None, 0),
    ],
)
def test_exit_codes(state: str, error: dict[str, object] | None, code: int) -> None:
    assert exit_code(state, error) == code


@pytest.mark.parametrize("told", [0, -1, 256, 512, True, "7", None, 7.0])
def test_a_failed_run_never_looks_like_success(told: object) -> None:
    assert exit_code("failed", {"exit_code": told}) == 1


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-1.0, "0.0 s"),
        (0.04, "0.0 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (65, "1 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7380, "2 h 03 min"),
        (86_400 * 4 + 7300, "4 d 02 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "now"),
        (0.9, "now"),
        (12, "12 s ago"),
        (200, "3 min ago"),
        (7300, "2 h ago"),
        (86_400 * 5, "5 d ago"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("progress", "part", "text"),
    [
        (None, None, ""),
        ({}, None, ""),
        ({"percent": 45}, 0.45, "45%"),
        ({"current": 3, "total": 10}, 0.3, "30%"),
        ({"percent": 450}, 1.0, "100%"),
        ({"percent": -4}, 0.0, "0%"),
        ({"current": 3}, None, "3"),
        ({"current": 3, "total": 0}, None, "3"),
        ({"percent": "45"}, None, ""),
        ({"percent": True}, None, ""),
        ({"percent": float("nan")}, None, ""),
    ],
)
def test_how_far_it_is(progress: dict[str, object] | None, part: float | None, text: str) -> None:
    assert fraction(progress) == part
    assert amount(progress) == text


# ------------------------------------------------------------------ lines


def test_the_last_line() -> None:
    line = ending(PLAIN, "run_x", "completed", 12.3, events=1204)
    assert line == "✓ run_x 12.3 s · 1,204 events"


def test_the_last_line_of_a_failure() -> None:
    line = ending(PLAIN, "run_x", "timed_out", None, events=1, said="Too\nlong.\x1b[2J")
    assert line == "✗ run_x - · 1 event · timed out · Too long."


def test_the_last_line_says_where_it_is_and_what_came_of_it() -> None:
    line = ending(
        PLAIN, "run_x", "completed", 12.3, events=4,
        address="http://h/runs/run_x", result={"exit_code": 0, "result": {"rows": [1, "é"]}},
    )  # fmt: skip
    assert line == '✓ run_x 12.3 s · 4 events · http://h/runs/run_x · {"rows":[1,"é"]}'


@pytest.mark.parametrize("result", [None, 4, {"rows": 2}, {"exit_code": 0}, {"result": 4}])
def test_only_a_program_has_a_result_of_its_own(result: object) -> None:
    line = ending(PLAIN, "run_x", "completed", 1, events=2, result=result)
    assert line == "✓ run_x 1.0 s · 2 events"


def test_a_result_may_be_nothing_and_is_never_long() -> None:
    told: dict[str, object] = {"exit_code": 0, "result": None}
    assert ending(PLAIN, "r", "completed", 1, events=2, result=told).endswith(" events · null")
    told["result"] = "x" * 9999 + "\x1b[2J"
    line = ending(PLAIN, "r", "completed", 1, events=2, result=told)
    assert line.endswith("xxx…")
    assert len(line) < 160


def test_the_last_line_in_ascii() -> None:
    assert ending(ASCII, "run_x", "completed", 1, events=2) == "ok run_x 1.0 s - 2 events"
    assert ending(ASCII, "run_x", "lost", 1, events=2).isascii()


def test_the_last_line_in_colour() -> None:
    assert ending(COLOUR, "run_x", "completed", 1, events=2).startswith("\x1b[32m✓\x1b[0m run_x")


def test_the_status_line() -> None:
    assert status(PLAIN, "crunch", 0.0, None, 80) == "⠋ 0.0 s · crunch"
    told = {"current": 5, "total": 10, "step": "Crunching"}
    bar = "██████████░░░░░░░░░░  50%"
    assert status(PLAIN, "crunch", 1.0, told, 80) == f"⠋ 1.0 s · crunch · {bar} · Crunching"
    assert status(PLAIN, "crunch", 1.0, {"current": 5}, 80) == "⠋ 1.0 s · crunch · 5"
    assert status(ASCII, "crunch", 1.0, told, 80).isascii()


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        (65, " · ETA 1 min 05 s"),
        (0, " · ETA 0.0 s"),
        (4.04, " · ETA 4.0 s"),
        (-1, ""),
        (None, ""),
        ("65", ""),
        (True, ""),
        (float("inf"), ""),
        (float("nan"), ""),
    ],
)
def test_how_long_it_still_takes(rest: object, text: str) -> None:
    told = {"percent": 50, "eta_seconds": rest, "message": "go"}
    bar = "██████████░░░░░░░░░░  50%"
    assert status(PLAIN, "crunch", 1.0, told, 80) == f"⠋ 1.0 s · crunch · {bar}{text} · go"


def test_nobody_computes_what_is_not_told() -> None:
    assert "ETA" not in status(PLAIN, "crunch", 1.0, {"current": 5, "total": 10}, 80)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (1, "queued, next"),
        (2, "queued, 2nd"),
        (3, "queued, 3rd"),
        (4, "queued, 4th"),
        (11, "queued, 11th"),
        (13, "queued, 13th"),
        (21, "queued, 21st"),
        (112, "queued, 112th"),
        (1002, "queued, 1,002nd"),
        (0, None),
        (True, None),
        ("3", None),
        (None, None),
    ],
)
def test_a_place_in_the_queue(place: object, text: str | None) -> None:
    assert waiting({"status": "queued", "position": place}) == text
    assert waiting({"status": "cancelling", "position": place}) is None


def test_the_status_line_never_wraps() -> None:
    told = {"percent": 50, "message": "界" * 100 + "\n\x1b]0;title\x07", "eta_seconds": 1e300}
    for width in range(80):
        line = status(PLAIN, "crunch", 1.0, told, width)
        assert sum(2 if character == "界" else 1 for character in line) <= width
        assert line.isprintable()


def test_clipping() -> None:
    assert clip("abcdef", 6) == "abcdef"
    assert clip("abcdef", 5) == "abcd…"
    assert clip("界界界", 5) == "界界…"
    assert clip("e\u0301" * 5, 5) == "e\u0301" * 5
    assert clip("abc", 0) == ""


def test_a_table() -> None:
    text = table([("ID", "NAME"), ("1", "界"), ("22", "b")])
    assert text == "ID  NAME\n1   界\n22  b\n"


def test_a_table_without_rows() -> None:
    assert table([("ID", "NAME")]) == "ID  NAME\n"


def test_an_error_is_two_lines() -> None:
    told = fault(TailraceError("It\nbroke.\x1b[2J", fix="Mend it."))
    assert told == "tailrace: It broke.\n          Mend it.\n"
    assert len(fault(TailraceError("It broke.")).splitlines()) == 2


# ------------------------------------------------------------------ foreign text

HARMLESS = [
    "plain\n",
    "tabs\tand\r\nreturns\r50%\r",
    "\x1b[31mred\x1b[0m \x1b[1;38;5;208morange\x1b[m \x1b[38:2::1:2:3mtrue\x1b[0m",
    "ünïcödé 界 🎉",
    "over\bstrike",
]

HARMFUL = [
    ("title", "a\x1b]0;title\x07b", "ab"),
    ("title, ended by ST", "a\x1b]2;title\x1b\\b", "ab"),
    ("clipboard (OSC 52)", "a\x1b]52;c;cm0gLXJm\x07b", "ab"),
    ("link (OSC 8)", "\x1b]8;;http://evil\x07click\x1b]8;;\x07", "click"),
    ("device string", "a\x1bP1;2|payload\x1b\\b", "ab"),
    ("APC, PM, SOS", "a\x1b_x\x1b\\\x1b^y\x1b\\\x1bXz\x1b\\b", "ab"),
    ("cursor movement", "a\x1b[2A\x1b[10;10H\x1b[Gb", "ab"),
    ("erasing", "a\x1b[2J\x1b[Kb", "ab"),
    ("alternate screen", "a\x1b[?1049hb", "ab"),
    ("not a colour, though it ends in m", "a\x1b[>4;2mb\x1b[?1mc\x1b[1 md", "abcd"),
    ("reports", "a\x1b[6n\x1b[cb\x1bZ", "ab"),
    ("reset", "a\x1bcb", "ab"),
    ("character sets", "a\x1b(0b\x0e\x0f", "ab"),
    ("8-bit CSI", "a\x9b31mb\x9b2Jc", "abc"),
    ("8-bit OSC", "a\x9d0;title\x9cb\x9dx\x07c", "abc"),
    ("8-bit DCS", "a\x90q\x9cb", "ab"),
    ("other C1", "a\x84\x85\x8d\x9cb", "ab"),
    ("other C0", "\0a\x07\x0b\x0c\x05\x7fb", "ab"),
    ("escape in an escape", "a\x1b\x1b[2Jb", "ab"),
    ("cancelled string", "a\x1b]0;x\x18b\x1b]0;y\x1ac", "abc"),
    ("unfinished string", "a\x1b]0;never ended\nb", "a\nb"),
    ("string that ends in a colour", "a\x1b]0;x\x1b[31mb", "a\x1b[31mb"),
    ("a line end within CSI", "a\x1b[3\n1mb", "a\n1mb"),
]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_passes(text: str) -> None:
    assert Sieve().feed(text) == text


@pytest.mark.parametrize(("text", "shown"), [case[1:] for case in HARMFUL])
def test_what_does_not(text: str, shown: str) -> None:
    assert Sieve().feed(text) == shown


@pytest.mark.parametrize("text", [*HARMLESS, *(case[1] for case in HARMFUL)])
def test_the_same_in_pieces(text: str) -> None:
    whole = Sieve().feed(text)
    for cut in range(len(text) + 1):
        sieve = Sieve()
        assert sieve.feed(text[:cut]) + sieve.feed(text[cut:]) == whole
    sieve = Sieve()
    assert "".join(sieve.feed(character) for character in text) == whole


@pytest.mark.parametrize("lead", ["\x1b[", "\x9b", "\x1b"])
def test_a_sequence_without_end_is_not_kept_for_ever(lead: str) -> None:
    sieve = Sieve()
    assert sieve.feed(lead) == ""
    for _ in range(100):
        sieve.feed(" " * 100)
        assert len(sieve._held) < 400
    assert "shown\n" in sieve.feed("\nshown\n")


def test_it_knows_whether_a_colour_is_on() -> None:
    sieve = Sieve()
    seen = [sieve.coloured]
    for text in ("\x1b[31mred", "more", "\x1b[0m"):
        sieve.feed(text)
        seen.append(sieve.coloured)
    assert seen == [False, True, True, False]


def test_foreign_text_within_a_line() -> None:
    assert plain("a\n\x1b[31mb\x1b[0m\tc\x1b]0;x\x07\b\r d ") == "a b c d"
