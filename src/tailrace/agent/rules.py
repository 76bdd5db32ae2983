"""What makes a question heavy, and the ways it may go: conditions, rules and routes, as tables.

The shipped ones are below. They know no subject, only how people ask.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tailrace.agent.facts import Facts

# What is told of a bound that holds.
_TOLD: Final = {
    "min_words": "{} words",
    "max_words": "only {} words",
    "min_questions": "{} questions",
    "min_steps": "{} steps",
    "min_turns": "{} turns before it",
    "min_tools": "tools it may need: {}",
    "min_score": "a score of {}",
    "max_score": "a score of {}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """A condition: everything that is given must hold, and where nothing is given it holds.

    `words`: words or phrases, of which the question must have one, as whole words and in any
    case. The others are bounds, both inclusive: of its words, questions and steps, of the turns
    before it, of the tools it may need, and, for a route, of its score.
    """

    words: tuple[str, ...] = ()
    min_words: int | None = None
    max_words: int | None = None
    min_questions: int | None = None
    min_steps: int | None = None
    min_turns: int | None = None
    min_tools: int | None = None
    min_score: int | None = None
    max_score: int | None = None

    def reasons(self, facts: Facts, score: int) -> list[str] | None:
        """Why it holds, in words; None if it does not."""
        found: list[str] = []
        if self.words:
            said = facts.said(self.words)
            if said is None:
                return None
            found.append(f"it says “{said}”")
        counts = {**facts.counts, "score": score}
        for name, told in _TOLD.items():
            bound: int | None = getattr(self, name)
            if bound is None:
                continue
            side, _, what = name.partition("_")
            if counts[what] < bound if side == "min" else counts[what] > bound:
                return None
            found.append(told.format(", ".join(facts.tools) if what == "tools" else counts[what]))
        return found


@dataclass(frozen=True, slots=True)
class Rule:
    """Adds `score`, which may be negative, to a question for which `when` holds; `reason` says
    why: "asks for a list".
    """

    name: str
    when: When
    score: int
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """Where a question goes. `model`: one that the chat knows, None for the chat's own. `note`:
    what to tell whoever asks; a route may be no more than that, a hint at somewhere else.
    """

    name: str
    model: str | None = None
    when: When = field(default_factory=When)
    note: str | None = None


def _says(name: str, score: int, reason: str, phrases: str) -> Rule:
    return Rule(name, When(words=tuple(phrases.split(", "))), score, reason)


RULES: Final = (
    Rule("short", When(max_words=4), -1, "is very short"),
    Rule("long", When(min_words=25), 1, "is long"),
    Rule("very-long", When(min_words=80), 2, "is very long"),
    Rule("questions", When(min_questions=2), 2, "asks several questions"),
    Rule("steps", When(min_steps=2), 2, "asks for several steps"),
    Rule("conversation", When(min_turns=6), 1, "comes after a long conversation"),
    Rule("tools", When(min_tools=1), 1, "is about what a tool knows"),
    Rule("many-tools", When(min_tools=3), 1, "may need several tools"),
    _says(
        *("list", 1, "asks for a list"),
        "list, lists, show, give me, display, which, find, search, enumerate",
    ),
    _says("count", 1, "asks for a number", "how many, how much, count, number of, total"),
    _says(
        *("figures", 2, "asks for figures to be worked out"),
        "average, mean, median, sum, highest, lowest, most, least, top, percent, percentage, "
        "distribution, group by, breakdown, statistics, increment, increments",
    ),
    _says(
        *("compare", 2, "compares"),
        "compare, comparison, compared, versus, vs, difference, differences, differ, better than, "
        "pros and cons, correlate, correlation",
    ),
    _says(
        *("trend", 2, "asks how something develops"),
        "trend, trends, over time, forecast, predict, prediction, growth, year over year",
    ),
    _says(
        *("analysis", 3, "asks for an analysis"),
        "analyze, analyse, analysis, evaluate, assess, investigate, insights, root cause, "
        "recommend, recommendation",
    ),
    _says(
        *("chart", 3, "asks for a picture"),
        "chart, charts, plot, graph, dashboard, visualize, visualise, visualization, diagram",
    ),
    _says(
        *("text", 2, "asks for a longer text"),
        "write, draft, report, essay, article, summarize, summarise, translate, rewrite, document",
    ),
    _says(
        *("code", 2, "asks for code"),
        "code, script, debug, refactor, implement, sql, regex, unit test, stack trace, algorithm",
    ),
    _says("reasons", 1, "asks for reasons", "why, explain, reason, reasons, how does, how do"),
    _says(
        *("care", 2, "asks for care"),
        "step by step, think, carefully, in detail, detailed, thorough, thoroughly, prove, proof",
    ),
)

ROUTES: Final = (
    Route("deep", when=When(min_score=7), note="This is a heavy question: it may take a while."),
    Route("tools", when=When(min_tools=1)),
    Route("direct"),
)
