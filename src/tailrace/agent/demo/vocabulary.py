"""The words that the built-in model knows: English, and about employees and what they earn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from tailrace.agent.demo.staff import DEPARTMENTS

Topic = Literal[
    "greeting",
    "help",
    "increments",
    "compare",
    "person",
    "ranking",
    "salaries",
    "count",
    "list",
    "departments",
]


def _phrases(*phrases: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(phrases)})\b", re.IGNORECASE)


def _all_of_it(*phrases: str) -> re.Pattern[str]:
    return re.compile(rf"^\W*(?:{'|'.join(phrases)})\W*$", re.IGNORECASE)


TOPICS: Final[Sequence[tuple[Topic, re.Pattern[str]]]] = (
    (
        "help",
        _phrases("what can you do", "who are you", "what are you", "how do you work"),
    ),
    (
        "help",
        _all_of_it("help", "help me", "can you help me"),
    ),
    (
        "compare",
        _phrases("compare", "comparison", "versus", "vs", "difference between"),
    ),
    (
        "increments",
        _phrases("increments?", "raises?", "hikes?", "pay rises?", "increases?"),
    ),
    (
        "ranking",
        _phrases(
            "(?:highest|best|most|lowest|least|worst)[- ](?:paid|earning)",
            "(?:highest|lowest|biggest|top|smallest|best) (?:[0-9]+ )?(?:salary|salaries|earners?)",
            "(?:earns?|makes?) (?:the )?(?:most|least)",
            "top [0-9]+ (?:employees|people)",
        ),
    ),
    (
        "departments",
        _phrases("how many departments", "number of departments"),
    ),
    (
        "count",
        _phrases(
            "how many (?:[a-z]+ )?(?:employees|people|persons|staff|colleagues|work)",
            "how many (?:are )?(?:there|they|in)",
            "number of (?:employees|people|staff)",
            "head ?count",
            "count",
        ),
    ),
    (
        "salaries",
        _phrases("salary", "salaries", "payroll", "wages?", "earns?", "pays?", "paid"),
    ),
    (
        "departments",
        _phrases("what departments", "which departments", "(?:list|show)(?: [a-z]+)* departments"),
    ),
    (
        "departments",
        _all_of_it("departments", "the departments"),
    ),
    (
        "list",
        _phrases("employees", "staff", "colleagues", "who works", "who is in", "people in"),
    ),
    (
        "greeting",
        _all_of_it(
            "(?:hi|hello|hey|good (?:morning|afternoon|evening))(?: there| you)?",
            "(?:thanks|thank you)(?: a lot| very much)?",
        ),
    ),
)
"""In order: the first that is found is the topic."""

OURS: Final = {
    **{name.lower(): name for name, _ in DEPARTMENTS},
    "hr": "Human Resources",
    "ops": "Operations",
    "engineers": "Engineering",
}
"""What our departments are called, and their names."""

DEPARTMENT: Final = _phrases(*OURS)

_CAPITAL: Final = r"[A-Z][\w&-]{0,40}"
_NAME: Final = r"[^\W\d_][\w'’-]{0,40}"
_NAMES: Final = rf"({_NAME}(?: {_NAME}){{0,3}})"
_FULL_NAME: Final = rf"({_CAPITAL}(?: {_CAPITAL}){{1,3}})"

IN_CAPITALS: Final = re.compile(
    rf"\b(?:in|from|of|for|about) (?:the )?({_CAPITAL}(?: {_CAPITAL}){{0,2}})"
)
CALLED_SO: Final = re.compile(r"\b([\w&-]{2,40}) (?:department|team)\b", re.IGNORECASE)
IN: Final = re.compile(r"\b(?:in|from|of|for) (?:the )?([a-z]{2,20})\b")

NUMBER: Final = re.compile(r"\bemployee (?:number |no\.? |id )?#?(\d{1,6})\b", re.IGNORECASE)
PEOPLE: Final = (
    re.compile(
        rf"\b(?:who is|who's|tell me about|(?:details?|information|profile) (?:of|for|on|about))"
        rf" {_NAMES}",
        re.IGNORECASE,
    ),
    re.compile(rf"\b(?:how much|what) does {_NAMES} (?:earn|make|get)\b", re.IGNORECASE),
    re.compile(
        rf"\b(?:salary|increments?|raises?|history|about) (?:of |for )?{_FULL_NAME}",
    ),
    re.compile(rf"\b{_FULL_NAME}['’]s\b"),
)
NO_NAMES: Final = frozenset(
    re.findall(
        r"\w+",
        "a all an and any anyone are best by each employee employees every everybody everyone "
        "earns for from got has he her highest him in is it lowest most my of on one or our paid "
        "per people she staff that the their them there these they this those top us what which "
        "who whole with you your",
    )
)
"""What no name of a person or a department begins with."""

YEAR: Final = re.compile(r"\b(?:19|20)\d\d\b(?!\s*(?:%|percent))")
LAST_YEAR: Final = _phrases("last year", "previous year", "the year before")
AGAINST: Final = _phrases("or", "against", "than")
TELLS: Final = _phrases("tell me about", "head of", "who leads", "who heads", "who runs")
ALL: Final = _phrases("all", "everybody", "everyone", "every", "complete")
THINKS: Final = _phrases("step by step", "step-by-step", "think", "reason", "explain your")
FOLLOWS: Final = re.compile(
    r"^\W*(?:and|what about|how about|only|just|same|now|also|but|then)\b", re.IGNORECASE
)
THEM: Final = _phrases("they", "them", "those", "these")

LOW: Final = _phrases("lowest", "(?<!at )least", "worst", "smallest")
HIGH: Final = _phrases("highest", "best", "(?<!at )most", "top", "biggest", "largest")
TOP: Final = re.compile(
    r"\b(?:top|highest|best|lowest|biggest|first|paid) (\d{1,3})\b(?!\s*%)"
    r"|\b(\d{1,3}) (?:top|highest|best|lowest|biggest|most|least)\b",
    re.IGNORECASE,
)
ONE: Final = _phrases(
    *("who is", "who's", "who has", "who got", "who gets", "who earns", "who makes"),
    *("employee", "person"),
)
