"""A range of percentages, as people write one. Pure."""

from __future__ import annotations

import math
import re
from typing import Final, NamedTuple


class Band(NamedTuple):
    """From `minimum` to `maximum` percent, both of them part of it. None is no bound; one of
    them is one.
    """

    minimum: float | None = None
    maximum: float | None = None

    def __str__(self) -> str:
        if self.maximum is None:
            return f"at least {self.minimum:g} %"
        if self.minimum is None:
            return f"at most {self.maximum:g} %"
        if self.minimum == self.maximum:
            return f"{self.minimum:g} %"
        return f"{self.minimum:g} to {self.maximum:g} %"


def band(text: str, *, loosely: bool = False) -> Band | None:
    """The range that a text names; None if it names none.

    `loosely`: a number may also be one of percent where no sign says so, as in "increments
    between 5 and 10". What is "above 8 %" begins at 8.1: increments have one decimal.
    """
    mark = rf"(?:{_PERCENT}|{_END})" if loosely else _PERCENT
    between = re.search(
        rf"{_NUMBER}\s*(?:{_PERCENT})?\s*{_TO}\s*{_NUMBER}\s*{mark}", text, re.IGNORECASE
    )
    if between:
        low, high = sorted((_value(between[1]), _value(between[2])))
        return Band(low, high) if high <= _MOST else None
    minimum = maximum = None
    rest = text
    # "No more than" has "more than" in it: what was read is taken away.
    for words, is_least, is_strict in _BOUNDS:
        found = re.search(words.replace("N", rf"{_NUMBER}\s*{mark}"), rest, re.IGNORECASE)
        if found is None or _value(found[1]) > _MOST:
            continue
        rest = rest[: found.start()] + " " + rest[found.end() :]
        value = _value(found[1])
        if is_least:
            minimum = _above(value) if is_strict else value
        else:
            maximum = _below(value) if is_strict else value
    if minimum is None and maximum is None:
        alone = re.search(rf"{_NUMBER}\s*{_PERCENT}", text, re.IGNORECASE)
        if alone and _value(alone[1]) <= _MOST:
            minimum = maximum = _value(alone[1])
    return None if minimum is None and maximum is None else Band(minimum, maximum)


def _value(number: str) -> float:
    return float(number.replace(",", "."))


def _above(value: float) -> float:
    # Rounded: 8.3 * 10 is a little more than 83.
    return (math.floor(round(value * 10, 6)) + 1) / 10


def _below(value: float) -> float:
    return (math.ceil(round(value * 10, 6)) - 1) / 10


_MOST: Final = 1000
_NUMBER: Final = r"(?<![\w.,])(\d{1,4}(?:[.,]\d{1,3})?)"
_PERCENT: Final = r"(?:%|percent\b|per cent\b|pct\b)"
# Not a year, and not a number of something else.
_END: Final = r"(?=\s*(?:$|[.;?!)]|(?:and|or|in|increments?|raises?)\b))"
_TO: Final = r"(?:-|–|—|to|and|until|through|up to)"

# What is said, whether it is the lower bound, and whether the number itself is outside.
_BOUNDS: Final = (
    (r"(?:at least|no less than|not less than|minimum(?: of)?|>=|≥)\s*N", True, False),
    (r"(?:at most|no more than|not more than|up to|maximum(?: of)?|<=|≤)\s*N", False, False),
    (r"N\s*(?:or|and)\s*(?:more|above|higher|over)\b(?!\s*\d)", True, False),
    (r"N\s*(?:or|and)\s*(?:less|below|lower|under)\b(?!\s*\d)", False, False),
    (r"(?:above|over|more than|greater than|higher than|exceeding|beyond|>)\s*N", True, True),
    (r"(?:below|under|less than|lower than|smaller than|<)\s*N", False, True),
    (r"from\s*N", True, False),
)
