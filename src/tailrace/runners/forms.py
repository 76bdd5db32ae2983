"""The forms in which tools print how far they are, as a table, and what a match tells. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

LARGEST: Final = 2**53  # up to here JavaScript can count

_LABEL: Final = 200

# A program chooses its text, so no search may take much longer than the line is long: every
# repetition is bounded, or cannot begin again within what it has just passed.
DIGITS: Final = r"[0-9]{1,15}+(?:\.[0-9]{1,9}+)?+"
# Where a number may not begin or end: in a word, a path, a date, or its own decimals. What is in
# front of `front` is the message, unless the form has one of its own, or a step.
_FREE: Final = r"(?<![\w.,:/&-])(?P<front>)"
_END: Final = r"(?![\w/-]|[.,]\w)"
_PERCENT: Final = rf"(?<![\w.,/&-])(?P<front>)(?P<percent>{DIGITS})"
_PAIR: Final = rf"(?P<current>{DIGITS})(?:/| / | of )(?P<total>{DIGITS}){_END}"
_SCALED: Final = rf"(?P<current>{DIGITS}[kKMGTP]?)/(?P<total>{DIGITS}[kKMGTP]?B?){_END}"
_BARE: Final = rf"{_FREE}(?P<current>{DIGITS})/(?P<total>{DIGITS})"
_THING: Final = (
    r"\b(?i:batch|chunk|epoch|file|fold|image|item|iter|iteration|job|loop|page|part|pass"
    r"|progress|record|round|row|sample|stage|step|task|test|trial)(?:e?s|ES)?"
    r"(?: (?:[a-z]{2,12}ed|done|no\.?|number))?[ :#=-]{1,4}(?P<front>)"
)

# By kind: what a line must contain, which is quick to see, and what is then looked for. In this
# order, as a bar may have counts in it, and a step has a label.
_FORMS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "bar": (
        # tqdm     Epoch 1:  30%|███       | 3/10 [00:01<00:02,  1.9it/s]
        ("%|", rf"{_PERCENT}%\|[^|]{{0,500}}\| {{0,8}}{_SCALED}"),
        # tqdm that knows no total     120it [00:03, 39.1it/s]
        (", ", rf"{_FREE}(?P<current>{DIGITS}(?:[kMGT](?=B|it))?) ?[A-Za-z]{{1,16}} \[[0-9:]++, "),
        # rich, pip     Working... ━━━━━━━━╸━━━ 4/10  40% 0:00:03
        ("━", rf"(?P<front>)[━╸╺] +{_PAIR}"),
        ("━", rf"(?P<front>)[━╸╺] +(?P<percent>{DIGITS})%"),
        # keras     32/469 ━━━━━━━━━━━━ 2s 5ms/step     32/469 [=>......] - ETA: 0s
        ("━", rf"{_BARE} ━"),
        ("[=", rf"{_BARE} \[="),
        # cargo     Building [=====>     ] 45/120: serde
        ("] ", rf"(?P<front>)\[[=#>. -]{{3,200}}+\] {_PAIR}"),
        # wget     file.tgz  45%[=====>    ]  12.0M  5.1MB/s
        ("%[", rf"{_PERCENT}%\[[=+> ]"),
        # progressbar2     10% (1 of 10) |###     | Elapsed Time: 0:00:00
        ("% (", rf"{_PERCENT}% \({_PAIR}\)"),
        # alive-progress     |█████       | ▂▄▆ 2/10 [20%] in 0s
        ("%] in ", rf"{_BARE} \[[0-9]{{1,3}}%\] in "),
        # uv     numpy   ------------------ 12.00 MiB/15.71 MiB
        ("iB/", rf"{_FREE}(?P<current>{DIGITS} ?[KMGT]?i?B)/(?P<total>{DIGITS} ?[KMGT]iB)"),
    ),
    "step": (("", rf"[Ss](?<!\w[Ss])(?i:tep)[ :#]{{1,3}}(?P<front>){_PAIR}(?: ?: (?P<step>.*))?"),),
    "count": (
        ("", rf"[\[(](?<!\w[\[(])(?P<front>) {{0,8}}{_PAIR} {{0,8}}[\])](?P<message>.*)"),
        ("/", rf"{_THING}{_PAIR}"),
        (" of ", rf"{_FREE}(?P<current>{DIGITS}) of (?P<total>{DIGITS}){_END}"),
    ),
    "percent": (("%", rf"{_PERCENT} ?%"),),
}

KINDS: Final = tuple(_FORMS)
"""The known kinds of progress. Ask for `percent` only where it is safe: `CPU 100%` has it too."""

FORMS_OF: Final = {
    kind: [(needle, re.compile(pattern, re.ASCII)) for needle, pattern in forms]
    for kind, forms in _FORMS.items()
}
# What all but bars have: it rules out most dates and paths.
COUNTED: Final = re.compile(
    r"[0-9](?<![\w.,/][0-9])[0-9.]{0,24}+(?:(?: ?/ ?| of )[0-9]++(?![/-])| ?%)", re.ASCII
)
_NUMBERS: Final[tuple[str, ...]] = ("current", "total", "percent")
_NUMBER: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(?:([kKMGTP])(i?))?B?", re.ASCII)
# What bars and their spinners are drawn with; it is not part of a message.
_DRAWN: Final = " \t|━╸╺▁▂▃▄▅▆▇█▉▊▋▌▍▎▏░▒▓⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BEFORE: Final = _DRAWN + ":-=>#[("


def tells(text: str) -> bool:
    """Whether it may tell anything: every form and marker has one of these, most lines none."""
    return "/" in text or "%" in text or " of " in text or "::" in text


def number(text: str) -> float:
    """A number with its unit, `1.2k` or `5 MiB`. Raises ValueError for one beyond LARGEST."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise ValueError("that is no number")
    digits, letter, binary = found.groups()
    number = float(digits) if "." in digits else int(digits)
    if letter:
        number = round(number * (1024 if binary else 1000) ** ("KMGTP".index(letter.upper()) + 1))
    if number > LARGEST:
        raise ValueError("that number is too large")
    return number


def first(
    forms: list[tuple[str, re.Pattern[str]]], line: str, *, is_whole: bool
) -> dict[str, Any] | None:
    """What the first of `forms` that is in the line, and has a meaning, tells."""
    for needle, pattern in forms:
        found = pattern.search(line) if needle in line else None
        if found and (payload := meaning(found, is_whole=is_whole)):
            return payload
    return None


def meaning(found: re.Match[str], *, is_whole: bool) -> dict[str, Any] | None:
    """What a match tells; None if its numbers have no sense, or may still go on."""
    groups = {name: text.strip() for name, text in found.groupdict().items() if text}
    try:
        told = {name: number(groups[name]) for name in _NUMBERS if name in groups}
    except ValueError:
        return None
    current, total, percent = map(told.get, _NUMBERS)
    if (current is None and percent is None) or (percent or 0) > 100:
        return None
    if total is not None and not (current or 0) <= total > 0:
        return None
    if not is_whole:
        # "3/1" may be the beginning of "3/10", and "3/10." that of "3/10.5".
        end = max(found.end(name) for name in told)
        if found.string[end:] in ("", ".", ","):
            return None
    step, message = groups.get("step"), groups.get("message")
    if not step and not message and "front" in found.re.groupindex:
        message = found.string[: found.start("front")].rstrip(_BEFORE).lstrip(_DRAWN)
    return shaped(told, step, message)


def shaped(told: dict[str, Any], step: str | None, message: str | None) -> dict[str, Any]:
    """The payload of a `progress` event: with a percentage where there can be one."""
    current, total = told.get("current"), told.get("total")
    if current is not None and total:
        told["percent"] = min(100.0, 100 * current / total)
    if "percent" in told:
        told["percent"] = round(told["percent"], 1)
    labels = {"step": step, "message": message}
    return told | {name: text[:_LABEL].rstrip() for name, text in labels.items() if text}
