"""How heavy a question is, and which route it takes. Pure: the same for the same question.

A question begins with a score of 1. Each rule whose condition holds adds its own, and says why;
what comes out is kept between 1 and 10. Of the routes, in their order, the first whose condition
holds is taken; the last one has none. A settings file replaces shipped rules by their names,
adds others, and may say which routes there are:

    [chat.rules.legal]
    when = { words = ["contract", "terms and conditions"] }
    score = 3
    reason = "asks about contracts"

    [chat.rules.chart]                          # a shipped one, which is to count less
    when = { words = ["chart", "plot"] }
    score = 1
    reason = "asks for a picture"

    [[chat.routes]]
    name = "deep"
    when = { min_score = 7 }
    model = "openai:gpt-5"                      # without one, the chat's own

    [[chat.routes]]
    name = "desk"
    when = { words = ["contract"], min_words = 40 }
    note = "The legal desk knows better."

    [[chat.routes]]
    name = "direct"

The keys of `when`, all of which must hold: `words` (whole words or phrases in any case, one of
which is enough; never patterns, for one of those could take for ever), `min_words`, `max_words`,
`min_questions`, `min_steps`, `min_turns`, `min_tools`, and in routes `min_score`, `max_score`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from tailrace.agent.facts import Facts, words
from tailrace.agent.rules import ROUTES, RULES, Route, Rule, When
from tailrace.errors import SettingsInvalid

Complexity = Literal["low", "medium", "high"]

LEAST: Final = 1
MOST: Final = 10

_MAX_BOUND: Final = 1_000_000
_MAX_PHRASE: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of a question: its `route`, that route's `model` (None: the chat's own) and
    `note`, and why (`reason`). `score` is 1 to 10, `reasons` has a line for each rule that held,
    and `tools_needed` is a guess.
    """

    route: str
    model: str | None
    reason: str
    score: int
    complexity: Complexity
    reasons: tuple[str, ...]
    tools_needed: tuple[str, ...]
    note: str | None = None


class Router:
    """Decides by rules and routes, the shipped ones unless others are given.

    Raises SettingsInvalid for a name that is there twice, and for routes that may leave a
    question without one.
    """

    def __init__(self, rules: Sequence[Rule] = RULES, routes: Sequence[Route] = ROUTES) -> None:
        self.rules = tuple(rules)
        self.routes = tuple(routes)
        _once("rule", [rule.name for rule in self.rules])
        _once("route", [route.name for route in self.routes])
        if not self.routes or self.routes[-1].when != When():
            raise SettingsInvalid(
                "The last route has a condition, so that a question may be left without one.",
                fix="End with a route that has no `when`.",
            )

    def decide(
        self, text: str, tools: Mapping[str, str] | Iterable[str] = (), turns: int = 0
    ) -> Decision:
        """What becomes of the question `text`. `tools`: names, or names with descriptions;
        `turns`: how many came before in the conversation. Raises nothing.
        """
        facts = Facts(text, tools, turns)
        held = [rule for rule in self.rules if rule.when.reasons(facts, LEAST) is not None]
        score = min(MOST, max(LEAST, LEAST + sum(rule.score for rule in held)))
        route, why = next(
            (route, why)
            for route in self.routes
            if (why := route.when.reasons(facts, score)) is not None
        )
        return Decision(
            route=route.name,
            model=route.model,
            reason=", ".join(why) or "nothing in it asks for another route",
            score=score,
            complexity=complexity(score),
            reasons=tuple(f"{rule.reason} ({rule.score:+d})" for rule in held if rule.score),
            tools_needed=facts.tools,
            note=route.note,
        )


def complexity(score: int) -> Complexity:
    """Low up to 3, medium up to 6, high above."""
    if score <= 3:
        return "low"
    return "medium" if score <= 6 else "high"


def read(table: Mapping[str, Any]) -> Router:
    """The router of a settings file's [chat], of which only `rules` and `routes` are read.

    Raises SettingsInvalid, which names what is wrong.
    """
    rules = {rule.name: rule for rule in RULES}
    for name, said in _table(table.get("rules", {}), "chat.rules").items():
        rules[name] = _rule(name, said)
    listed = table.get("routes")
    if listed is None:
        return Router(tuple(rules.values()))
    if not isinstance(listed, list) or not listed:
        raise SettingsInvalid("chat.routes must be a list of routes.", fix=_ROUTE)
    routes = [_route(said, f"chat.routes[{place}]") for place, said in enumerate(listed)]
    return Router(tuple(rules.values()), routes)


def _rule(name: str, said: Any) -> Rule:
    where = f"chat.rules.{name}"
    table = _known(_table(said, where), ("when", "score", "reason"), where)
    score = table.get("score")
    if type(score) is not int or not -MOST <= score <= MOST:
        raise SettingsInvalid(
            f"{where}.score must be a whole number from {-MOST} to {MOST}.",
            fix="Give something like 2; 0 switches a rule off.",
        )
    when = _when(table.get("when", {}), f"{where}.when")
    if when == When():
        raise SettingsInvalid(f"{where} has no condition.", fix='Give when = { words = ["…"] }.')
    if when.min_score is not None or when.max_score is not None:
        raise SettingsInvalid(
            f"{where}.when asks for a score, which the rules only make.",
            fix="Use min_score and max_score in routes.",
        )
    return Rule(name, when, score, _text(table, "reason", where) or f"is of the kind {name}")


def _route(said: Any, where: str) -> Route:
    table = _known(_table(said, where), ("name", "model", "when", "note"), where)
    name = _text(table, "name", where)
    if name is None:
        raise SettingsInvalid(f"{where} has no name.", fix=_ROUTE)
    when = _when(table.get("when", {}), f"{where}.when")
    return Route(name, _text(table, "model", where), when, _text(table, "note", where))


def _when(said: Any, where: str) -> When:
    table = _known(_table(said, where), [field.name for field in fields(When)], where)
    found: dict[str, Any] = {}
    for name, value in table.items():
        if name == "words":
            found[name] = _phrases(value, where)
        elif type(value) is not int or not 0 <= value <= _MAX_BOUND:
            raise SettingsInvalid(
                f"{where}.{name} must be a whole number, 0 or more.", fix="Give something like 5."
            )
        else:
            found[name] = value
    return When(**found)


def _phrases(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise SettingsInvalid(
            f"{where}.words must be a list of texts.",
            fix='Give something like ["list", "show me"].',
        )
    # What has no letter or digit would be found everywhere.
    empty = next((one for one in value if not words(one) or len(one) > _MAX_PHRASE), None)
    if empty is not None:
        raise SettingsInvalid(
            f"{where}.words has {empty[:40]!r}, which is no word or phrase.",
            fix="Use letters and digits.",
        )
    return tuple(value)


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingsInvalid(
            f"{where} must be a table.", fix=_ROUTE if "routes" in where else _RULE
        )
    return value


def _known(table: Mapping[str, Any], names: Sequence[str], where: str) -> Mapping[str, Any]:
    stray = next((name for name in table if name not in names), None)
    if stray is not None:
        raise SettingsInvalid(
            f"{where} has {stray!r}, which is nothing it may have.",
            fix=f"It may have {', '.join(names)}.",
        )
    return table


def _text(table: Mapping[str, Any], name: str, where: str) -> str | None:
    value = table.get(name)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise SettingsInvalid(f"{where}.{name} must be a text.", fix="Give one, or leave it out.")
    return value


def _once(kind: str, names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SettingsInvalid(f"There are two {kind}s {twice!r}.", fix="Give each its own name.")


_RULE: Final = 'Give [chat.rules.NAME] with when = { words = ["…"] }, score and reason.'
_ROUTE: Final = "Give [[chat.routes]] with a name, and perhaps model, when, note."

__all__ = ["ROUTES", "RULES", "Complexity", "Decision", "Route", "Router", "Rule", "When", "read"]
