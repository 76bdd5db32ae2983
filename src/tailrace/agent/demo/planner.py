"""The built-in model's mind: from what was said, and what came of it, to the next step. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from tailrace.agent.demo import answers, itself
from tailrace.agent.demo.orders import obey, ordered
from tailrace.agent.demo.question import Question, nearest, understand
from tailrace.agent.demo.step import Outcome, Rounds, Step, call, results
from tailrace.agent.demo.topics import WAYS

# Those that take a department.
_BY_DEPARTMENT: Final = frozenset(
    {
        "count_employees",
        "find_employees",
        "increments",
        "increment_summary",
        "salary_summary",
    }
)

_MAX_PAST: Final = 20


def plan(messages: Sequence[str], rounds: Rounds, tools: Collection[str]) -> Step:
    """What to do next. `messages`: what the user has said, the oldest first; `rounds`: what came
    of the calls that were made since the last of them; `tools`: the names of those there are.
    Raises nothing, whatever the tools answered.
    """
    text = messages[-1] if messages else ""
    orders = ordered(text, tools)
    if orders is not None:
        return obey(orders, rounds, tools)
    question = understand(text, messages[-_MAX_PAST:-1])
    if question.topic not in WAYS:
        return Step(itself.told(question.topic, tools))
    try:
        step = _planned(question, rounds)
    except answers.BROKEN:
        return Step(itself.puzzled(tools))
    missing = sorted({call.name for call in step.calls} - set(tools))
    if missing:
        return Step(itself.without(missing, tools))
    if question.thinks:
        return step._replace(thought=_thought(question, rounds, step))
    return step


def _planned(question: Question, rounds: Rounds, remark: str = "") -> Step:
    for place, outcomes in enumerate(rounds):
        lost = next((one for one in outcomes if one.failed), None)
        if lost is not None:
            return _recovered(question, lost, rounds[place + 1 :])
    way = WAYS[question.topic]
    calls = way.calls(question, rounds)
    if calls:
        return Step(remark + way.says[1 if rounds else 0], tuple(calls))
    answer = way.answer(question, rounds)
    if not answer:
        raise ValueError("nothing was found where something must be")
    return Step(remark + answer)


def _recovered(question: Question, lost: Outcome, since: Rounds) -> Step:
    """After a call that failed: perhaps for a department that there is not."""
    said = lost.args.get("department")
    if lost.name not in _BY_DEPARTMENT or said not in question.departments:
        return Step(f"That did not work. {lost.result}")
    if not since:
        return Step(
            f"There seems to be no department “{said}”. I look up which there are.",
            (call("list_departments"),),
        )
    names = [row["department"] for row in results(since[:1], "list_departments")[0].result]
    if said in names:
        return Step(f"That did not work. {lost.result}")
    meant = nearest(said, names)
    if meant is None:
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        return Step(f"**There is no department “{said}”.** There are {listed}. Which do you mean?")
    right = tuple(meant if one == said else one for one in question.departments)
    return _planned(replace(question, departments=right), since[1:], f"I take it for {meant}. ")


def _thought(question: Question, rounds: Rounds, step: Step) -> str:
    names = " and ".join(call.name for call in step.calls)
    together = " at the same time, for neither needs the other" if len(step.calls) > 1 else ""
    if not rounds:
        narrowed = [
            *question.departments,
            *([str(question.band)] if question.band else []),
            *([str(question.year)] if question.year else []),
            *([question.person] if question.person else []),
        ]
        about = f", narrowed to {', '.join(narrowed)}" if narrowed else ""
        return (
            f"The question is one about {question.topic}{about}. I know no figures by heart, "
            f"so I ask {names}{together}."
        )
    known = sum(len(outcomes) for outcomes in rounds)
    if any(one.failed for one in rounds[-1]):
        begin = "A call failed, and its error says why."
    else:
        begin = f"{known} results are here."
    if step.calls:
        return f"{begin} Not all is known yet: I ask {names}{together}."
    return f"{begin} That is all there is to know, so I put it into words."
