"""What the built-in model understands of a message: a topic, and what narrows it. Pure.

It looks for the words it knows. What it does not find it does not guess at.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from tailrace.agent.demo import vocabulary as say
from tailrace.agent.demo.band import Band, band
from tailrace.agent.demo.staff import DEPARTMENTS, LAST_YEAR
from tailrace.agent.demo.vocabulary import Topic

MAX_CHARACTERS: Final = 2_000
"""How much of a message is looked at."""

_MAX_TOP: Final = 50
_SHORT: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`topic` is None for what was not understood. `departments`: as the message names them,
    which need not be ours. `band`: of increments. `person`: a name, or a number. `top`: how many
    of the highest, or of the lowest, if `is_lowest`. `wants_all`: however many they are.
    `thinks`: the model is asked to think aloud.
    """

    topic: Topic | None = None
    departments: tuple[str, ...] = ()
    band: Band | None = None
    year: int | None = None
    person: str | None = None
    top: int | None = None
    is_lowest: bool = False
    wants_all: bool = False
    thinks: bool = False


def understand(text: str, past: Iterable[str] = ()) -> Question:
    """The question of a message. `past`: what the same person said before, the oldest first, for
    "and in Sales?" says only what is different.
    """
    known = asked = Question()
    for message in (*past, text):
        asked = _following(known, message[:MAX_CHARACTERS])
        if asked.topic not in (None, "greeting", "help"):
            known = asked
    return asked


def _following(known: Question, message: str) -> Question:
    """What `message` asks, where `known` was asked before."""
    said = _alone(message)
    if known.topic is None or said.person is not None:
        return said
    follows = say.FOLLOWS.match(message) is not None
    if said.topic is None:
        narrows = said.departments or said.year or said.band or said.top
        if narrows and (follows or len(message.split()) <= _SHORT):
            return _narrowed(known, said)
        return replace(known, thinks=True) if said.thinks and not narrows else said
    if follows and said.topic == known.topic:
        return _narrowed(known, said)
    # "How many are they?" is another question, about the same people.
    if not said.departments and (follows or say.THEM.search(message)):
        return replace(said, departments=known.departments)
    return said


def _narrowed(known: Question, said: Question) -> Question:
    return replace(
        known,
        departments=said.departments or known.departments,
        band=said.band or known.band,
        year=said.year or known.year,
        top=said.top or known.top,
        is_lowest=said.is_lowest if said.top else known.is_lowest,
        thinks=said.thinks,
    )


def _alone(text: str) -> Question:
    topic: Topic | None = next((name for name, words in say.TOPICS if words.search(text)), None)
    asked = band(text, loosely=topic == "increments")
    if asked and topic in (None, "list", "count", "salaries"):
        topic = "increments"
    departments = _departments(text)
    person = None if topic in ("greeting", "help", "ranking", "compare") else _person(text)
    if person is not None:
        topic, departments = "person", ()
    elif len(departments) > 1 and topic in (None, "salaries") and say.AGAINST.search(text):
        topic = "compare"
    elif departments and topic is None and say.TELLS.search(text):
        topic = "departments"
    year = say.YEAR.search(text)
    return Question(
        topic=topic,
        departments=departments,
        band=asked,
        year=int(year[0]) if year else LAST_YEAR - 1 if say.LAST_YEAR.search(text) else None,
        person=person,
        top=_top(text),
        is_lowest=say.LOW.search(text) is not None,
        wants_all=say.ALL.search(text) is not None,
        thinks=say.THINKS.search(text) is not None,
    )


def _departments(text: str) -> tuple[str, ...]:
    """Ours by their own names, in the order they are named; another as it is written."""
    found = [say.OURS[match[0].lower()] for match in say.DEPARTMENT.finditer(text)]
    if found:
        return tuple(dict.fromkeys(found))
    for pattern in (say.IN_CAPITALS, say.CALLED_SO):
        for match in pattern.finditer(text):
            if match[1].lower().split()[0] not in say.NO_NAMES:
                return (match[1],)
    for match in say.IN.finditer(text):
        if nearest(match[1], (name for name, _ in DEPARTMENTS), 0.8):
            return (match[1],)
    return ()


def nearest(said: str, names: Iterable[str], alike: float = 0.6) -> str | None:
    """The one of `names` that is most like `said`; None if none is alike, as difflib has it."""
    by_case = {name.lower(): name for name in names}
    found = difflib.get_close_matches(said.lower()[:60], by_case, n=1, cutoff=alike)
    return by_case[found[0]] if found else None


def _person(text: str) -> str | None:
    number = say.NUMBER.search(text)
    if number:
        return number[1]
    for pattern in say.PEOPLE:
        for match in pattern.finditer(text):
            name = match[1].removesuffix("'s").removesuffix("’s")
            first = name.lower().split()[0]
            if first not in say.NO_NAMES and not say.DEPARTMENT.search(name):
                return name
    return None


def _top(text: str) -> int | None:
    """How many of the highest or lowest are asked for, if any."""
    if not (say.LOW.search(text) or say.HIGH.search(text)):
        return None
    counted = say.TOP.search(text)
    if counted:
        return max(1, min(int(counted[1] or counted[2]), _MAX_TOP))
    return 1 if say.ONE.search(text) else 5


__all__ = ["Question", "Topic", "nearest", "understand"]
