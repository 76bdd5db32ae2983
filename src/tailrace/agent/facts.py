"""What is counted in a question, before anybody decides what becomes of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Final

MAX_CHARACTERS: Final = 20_000
"""How much of a question is looked at."""

MAX_TOOLS: Final = 5
"""How many tools are guessed, at most."""

# Runs of letters and digits: one pass, whatever the text is.
_WORD: Final = re.compile(r"[^\W_]+")
_ITEM: Final = re.compile(r"^[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]", re.MULTILINE)
_NEXT: Final = ("then", "after that", "afterwards", "finally", "next")

# Every second tool is named with one of these; they say what is done, not what it is done with.
_ACTS: Final = frozenset(
    _WORD.findall(
        "a add all an and by call check count create delete detail do fetch find for from get in "
        "is it list look lookup make of on or query read run search set show summary the to update "
        "use with write"
    )
)


class Facts:
    """A question, read once.

    `tools` are names, or names with descriptions. `turns`: how many came before in the
    conversation.
    """

    def __init__(
        self, text: str, tools: Mapping[str, str] | Iterable[str] = (), turns: int = 0
    ) -> None:
        self._text = text[:MAX_CHARACTERS]
        self._words = words(self._text)
        self._padded = f" {' '.join(self._words)} "
        self._offered = dict(tools) if isinstance(tools, Mapping) else dict.fromkeys(tools, "")
        self._turns = turns

    def said(self, phrases: Iterable[str]) -> str | None:
        """The first of these phrases that the question has as whole words, in any case."""
        return next(
            (said for said in phrases if f" {' '.join(words(said))} " in self._padded), None
        )

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many words, questions, steps, turns before, and tools it may need."""
        return {
            "words": len(self._words),
            "questions": len(re.findall(r"\?+", self._text)),
            "steps": self._steps,
            "turns": self._turns,
            "tools": len(self.tools),
        }

    @property
    def _steps(self) -> int:
        """Items of a list, or what is asked for one after the other."""
        following = sum(self._padded.count(f" {word} ") for word in _NEXT)
        return max(len(_ITEM.findall(self._text)), following + 1 if following else 0)

    @cached_property
    def tools(self) -> tuple[str, ...]:
        """Those that the words of the question suggest, by their names and descriptions: a guess.
        The likeliest come first, at most MAX_TOOLS.
        """
        asked = {_stem(word) for word in self._words}
        likely: list[tuple[float, int, str]] = []
        for place, (name, description) in enumerate(self._offered.items()):
            named = {_stem(word) for word in words(_spaced(name))}
            things = named - _ACTS or named
            share = len(things & asked) / max(1, len(things))
            # What follows its first paragraph is about its arguments.
            told = {_stem(word) for word in words(description.partition("\n\n")[0])} - _ACTS
            if share < 0.5 and len(told & asked) < 2:
                continue
            likely.append((-share - len(named & asked & _ACTS), place, name))
        return tuple(name for _, _, name in sorted(likely)[:MAX_TOOLS])


def words(text: str) -> list[str]:
    """The words of a text, in lower case, without what is between them."""
    return _WORD.findall(text.lower())


def _spaced(name: str) -> str:
    """A tool's name with its words apart: `listOpen` is `list Open`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)


def _stem(word: str) -> str:
    """Without the ending of a plural: departments are what a department is."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
