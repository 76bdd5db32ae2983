from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, field_validator

from tailrace.errors import BodyTooLarge, InputInvalid, ScopeMissing
from tailrace.operations import MAX_INPUT_BYTES, Operation, Traits
from tailrace.protocol.access import Access
from tailrace.protocol.events import loads
from tailrace.run import RunContext
from tailrace.runners.contract import Sink
from tailrace.runners.function import Kind


class Context(Sink):
    """The least a run is."""

    def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
        raise NotImplementedError

    async def ebb(self) -> None:
        raise NotImplementedError

    async def drain(self) -> None:
        raise NotImplementedError


CONTEXT = Context()

Made = Operation[..., str]


def made(function: Callable[..., Any], **options: Any) -> Made:
    async def start(operation: Operation[Any, Any], given: Mapping[str, Any]) -> str:
        return operation.check(given).decode()

    return Operation(function, start, **options)


def called(operation: Made, **given: Any) -> Any:
    """As it is when a run is started: the input becomes JSON, and that is read again."""
    stored = operation.check(given)
    loads(stored)
    return operation.bind(stored, CONTEXT)()


# --- what can be run -------------------------------------------------------------------


async def coroutine(rows: int = 100) -> int:
    """Count the rows."""
    return rows


def plain(rows: int = 100) -> int:
    """Count the rows.

    All of them.
    """
    return rows


def generator(rows: int = 100) -> Iterator[int]:
    yield rows


async def async_generator(rows: int = 100) -> AsyncIterator[int]:
    yield rows


class Counter:
    """An object that counts."""

    def __call__(self, rows: int = 100) -> int:
        return rows

    async def method(self, rows: int = 100) -> int:
        return rows

    @staticmethod
    def static(rows: int = 100) -> int:
        return rows

    @classmethod
    async def of_class(cls, rows: int = 100) -> AsyncIterator[int]:
        yield rows


class Constructed:
    """Made by a run."""

    def __init__(self, rows: int = 100) -> None:
        self.rows = rows


KINDS: list[tuple[Callable[..., Any], str, Kind, str]] = [
    (coroutine, "coroutine", Kind.COROUTINE, "Count the rows."),
    (plain, "plain", Kind.FUNCTION, "Count the rows.\n\nAll of them."),
    (generator, "generator", Kind.GENERATOR, ""),
    (async_generator, "async_generator", Kind.ASYNC_GENERATOR, ""),
    (Counter(), "Counter", Kind.FUNCTION, "An object that counts."),
    (Counter().method, "method", Kind.COROUTINE, ""),
    (Counter.static, "static", Kind.FUNCTION, ""),
    (Counter.of_class, "of_class", Kind.ASYNC_GENERATOR, ""),
    (Constructed, "Constructed", Kind.FUNCTION, "Made by a run."),
    (functools.partial(plain), "plain", Kind.FUNCTION, "Count the rows.\n\nAll of them."),
    (functools.partial(coroutine), "coroutine", Kind.COROUTINE, "Count the rows."),
    (functools.partial(functools.partial(generator)), "generator", Kind.GENERATOR, ""),
    (functools.partial(Counter()), "Counter", Kind.FUNCTION, "An object that counts."),
]


@pytest.mark.parametrize(("function", "name", "kind", "said"), KINDS, ids=lambda one: str(one)[:20])
def test_what_can_be_run(function: Callable[..., Any], name: str, kind: Kind, said: str) -> None:
    operation = made(function)
    assert (operation.name, operation.kind, operation.description) == (name, kind, said)
    assert operation.parameters == {
        "type": "object",
        "title": name,
        "additionalProperties": False,
        "properties": {"rows": {"type": "integer", "default": 100, "title": "rows"}},
    }
    assert loads(operation.check({})) == {"rows": 100}
    with pytest.raises(InputInvalid):
        operation.check({"rows": "many"})


def test_calling_it_calls_the_function() -> None:
    assert made(plain)(3) == made(plain)(rows=3) == 3


def test_a_name_and_options_of_its_own() -> None:
    operation = made(plain, name="count", timeout=5.0, abandon_after=2.0, grace=1.0)
    assert (operation.name, operation.parameters["title"]) == ("count", "count")
    assert (operation.timeout, operation.abandon_after, operation.grace) == (5.0, 2.0, 1.0)


def test_it_has_no_traits_and_no_limit_unless_told() -> None:
    operation = made(coroutine)
    assert (operation.traits, operation.concurrency) == (Traits(), None)
    traits = Traits(title=str, survives=True)
    assert made(coroutine, traits=traits).traits is traits
    assert made(coroutine, concurrency=1).concurrency == 1


@pytest.mark.parametrize("concurrency", [0, -1])
def test_a_concurrency_of_nothing_is_refused(concurrency: int) -> None:
    with pytest.raises(ValueError, match=f"cannot have a concurrency of {concurrency}"):
        made(coroutine, concurrency=concurrency)


def test_a_partial_has_its_own_defaults() -> None:
    def add(one: int, two: int, *, three: int = 3) -> tuple[int, int, int]:
        return one, two, three

    assert called(made(functools.partial(add, 1)), two=2) == (1, 2, 3)
    assert called(made(functools.partial(add, two=5, three=6)), one=1) == (1, 5, 6)
    assert called(made(functools.partial(add, two=5)), one=1, two=7) == (1, 7, 3)
    with pytest.raises(InputInvalid, match="one"):
        made(functools.partial(add, 1)).check({"one": 1, "two": 2})


# --- parameters ------------------------------------------------------------------------


def test_positional_only_parameters() -> None:
    def divide(one: int, two: int = 2, /, three: int = 3) -> tuple[int, int, int]:
        return one, two, three

    assert called(made(divide), one=6) == (6, 2, 3)
    assert called(made(divide), one=6, three=4, two=5) == (6, 5, 4)


def test_any_others() -> None:
    def gather(first: int, **others: Any) -> tuple[int, dict[str, Any]]:
        return first, others

    operation = made(gather)
    assert operation.parameters["additionalProperties"] is True
    more = {"in_first": 2, "others": 3, "self": 4, "deep": {"a": [1]}}
    assert called(operation, first=1, **more) == (1, more)


def test_no_unnamed_others() -> None:
    def gather(*rows: int) -> None: ...

    with pytest.raises(TypeError, match=r"\*rows: input is by name"):
        made(gather)


def test_names_that_mean_something_to_pydantic() -> None:
    def shadow(  # noqa: PLR0917
        json: str,
        copy: int = 1,
        schema: float = 0.5,
        model_x: bool = True,
        model_config: int = 2,
        model_fields: int = 3,
        dict: int = 4,  # noqa: A002
        validate: int = 5,
        _private: int = 6,
        in_json: int = 7,
        cls: int = 8,
    ) -> list[Any]:
        return [json, copy, schema, model_x, model_config, model_fields, dict, validate, _private,
                in_json, cls]  # fmt: skip

    operation = made(shadow)
    names = ["json", "copy", "schema", "model_x", "model_config", "model_fields", "dict",
             "validate", "_private", "in_json", "cls"]  # fmt: skip
    assert list(operation.parameters["properties"]) == names
    assert operation.parameters["required"] == ["json"]
    assert called(operation, json="j") == ["j", 1, 0.5, True, 2, 3, 4, 5, 6, 7, 8]
    assert called(operation, json="j", model_x=False, in_json=1)[3::6] == [False, 1]


def test_constraints() -> None:
    def bounded(
        rows: Annotated[int, Field(gt=0, le=10, description="How many")] = 5,
        name: Annotated[str, Field(pattern="^[a-z]+$", alias="other")] = "a",
        rest: list[int] = Field(default_factory=list, max_length=2),  # noqa: B008
        tries: int = Field(3, ge=1),
    ) -> list[Any]:
        return [rows, name, rest, tries]

    operation = made(bounded)
    properties = operation.parameters["properties"]
    assert properties["rows"]["description"] == "How many"
    assert (properties["rows"]["exclusiveMinimum"], properties["rows"]["maximum"]) == (0, 10)
    assert "required" not in operation.parameters
    assert called(operation) == [5, "a", [], 3]
    assert called(operation, name="b", rest=[1], tries=1) == [5, "b", [1], 1]
    for wrong in ({"rows": 0}, {"rows": 11}, {"name": "A"}, {"rest": [1, 2, 3]}, {"tries": 0},
                  {"other": "a"}):  # fmt: skip
        (name,) = wrong
        with pytest.raises(InputInvalid) as refused:
            operation.check(wrong)
        assert refused.value.details["errors"][0]["where"] == name


def test_a_default_of_none_is_a_value() -> None:
    def optional(rows: int = None) -> int | None:  # type: ignore[assignment]  # noqa: RUF013
        return rows

    assert called(made(optional)) is None
    assert called(made(optional), rows=None) is None
    assert called(made(optional), rows=3) == 3


def test_a_default_that_does_not_fit_is_told_at_once() -> None:
    """Not when the run has begun: what is stored is read again then."""

    def wrong(rows: int = "many") -> int:  # type: ignore[assignment]
        return rows

    with pytest.raises(InputInvalid, match="rows"):
        made(wrong).check({})
    assert called(made(wrong), rows=3) == 3


# --- the run's context -----------------------------------------------------------------


def first(run: Context, rows: int) -> Any:
    return run, rows


def last(rows: int, run: Context) -> Any:
    return run, rows


def middle(rows: int, its_run: Context, others: int = 2) -> Any:
    return its_run, rows


def only_by_name(rows: int, *, run: Context) -> Any:
    return run, rows


def only_by_position(run: Context, rows: int, /) -> Any:
    return run, rows


def optional(rows: int, run: Context | None = None) -> Any:
    return run, rows


def annotated(rows: int, run: Annotated[Context, "its run"]) -> Any:
    return run, rows


def with_others(run: Sink, rows: int, **others: int) -> Any:
    return run, rows


@pytest.mark.parametrize(
    "function",
    [first, last, middle, only_by_name, only_by_position, optional, annotated, with_others],
)
def test_the_context_is_found_by_its_annotation(function: Callable[..., Any]) -> None:
    operation = made(function)
    assert list(operation.parameters["properties"])[:1] == ["rows"]
    assert not {"run", "its_run"} & operation.parameters["properties"].keys()
    assert called(operation, rows=3) == (CONTEXT, 3)


def test_the_context_is_nobodys_input() -> None:
    with pytest.raises(InputInvalid):
        made(first).check({"rows": 1, "run": "mine"})
    assert called(made(with_others), rows=1, run="mine") == (CONTEXT, 1)


def test_the_context_of_a_partial() -> None:
    assert called(made(functools.partial(last, 7))) == (CONTEXT, 7)
    assert called(made(functools.partial(first, rows=7))) == (CONTEXT, 7)


def test_the_context_that_users_see() -> None:
    def seen(run: RunContext, rows: int) -> int:
        return rows

    assert list(made(seen).parameters["properties"]) == ["rows"]


def test_a_run_is_taken_once() -> None:
    def twice(run: Context, also: Context) -> None: ...

    with pytest.raises(TypeError, match="takes its run twice: run, also"):
        made(twice)


# --- hints that make no schema ---------------------------------------------------------


class Foreign:
    pass


def hinted(hint: Any) -> Callable[..., Any]:
    def function(rows: Any) -> None: ...

    function.__annotations__["rows"] = hint
    return function


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        ("Missing", "cannot be resolved: name 'Missing' is not defined"),
        ("math.Missing", "cannot be resolved: module 'math' has no attribute 'Missing'"),
        ("list[", "cannot be resolved: Forward reference must be an expression"),
        (Foreign, "has no schema: .*Foreign"),
        (list[Foreign], "has no schema: .*Foreign"),
        (Callable[[], int], "has no schema: .*Callable"),
        (3, "has no schema"),
        (Annotated[str, Field(pattern="(")], "has no schema: .*unclosed group"),
    ],
    ids=str,
)
def test_hints_that_make_no_schema_are_refused_at_once(hint: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"(?s)operation function {said}") as taught:
        made(hinted(hint))
    assert "module level" in str(taught.value) or "Use types that JSON can say" in str(taught.value)


# --- inputs ----------------------------------------------------------------------------


def nested(rows: list[int], name: str = "a", *, deep: dict[str, int] | None = None) -> None: ...


@pytest.mark.parametrize(
    ("given", "where", "what"),
    [
        ({}, "rows", "Field required"),
        ({"rows": 3}, "rows", "valid list"),
        ({"rows": [1, "x"]}, "rows.1", "valid integer"),
        ({"rows": [], "name": None}, "name", "valid string"),
        ({"rows": [], "deep": {"a": "b"}}, "deep.a", "valid integer"),
        ({"rows": [], "rowz": 1}, "rowz", "not permitted"),
        ({"in_rows": []}, "rows", "Field required"),
        ({"rows": [], "x" * 500: 1}, "x" * 40, "not permitted"),
    ],
)
def test_wrong_input_is_told_where(given: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        made(nested).check(given)
    found = refused.value.details["errors"][0]
    assert found["where"] == where
    assert what in found["what"]
    assert f"{where}: " in str(refused.value)
    assert "GET /operations" in refused.value.fix


def test_of_many_unknown_fields_no_list_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    operation = made(nested)
    known = len(operation.parameters["properties"])
    given = {"rows": [], **{f"x{n}": 0 for n in range(19 + known)}}
    with pytest.raises(InputInvalid, match="not permitted"):
        operation.check(given)
    monkeypatch.setattr(operation, "_invalid", None)
    with pytest.raises(InputInvalid, match=f"input: It has more than {known + 20} fields"):
        operation.check({**given, "y": 0})


def test_of_very_many_mistakes_only_their_number_is_told() -> None:
    operation = made(nested)
    with pytest.raises(InputInvalid, match="nested does not take this input: input: 6,000 parts"):
        operation.check({"rows": ["x"] * 6000})


def test_whoever_takes_all_fields_takes_many() -> None:
    def open_to_all(**rest: int) -> int:
        return sum(rest.values())

    assert called(made(open_to_all), **{f"x{n}": 1 for n in range(100)}) == 100


def test_what_is_refused_is_told_in_short() -> None:
    with pytest.raises(InputInvalid) as refused:
        made(nested).check({"rows": ["x" * 1000] * 1000})
    assert len(refused.value.details["errors"]) == 20
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "given",
    [
        {"rows": [10**400]},
        {"rows": [], "name": "\ud800"},
        {"rows": [], "name": object()},
    ],
    ids=["beyond every double", "surrogate", "object"],
)
def test_what_is_no_json_is_refused(given: dict[str, Any]) -> None:
    def anything(rows: list[int], name: Any = None) -> None: ...

    with pytest.raises(InputInvalid):
        made(anything).check(given)


def test_a_large_input_is_refused() -> None:
    with pytest.raises(BodyTooLarge, match="nested has"):
        made(nested).check({"rows": [], "name": "x" * MAX_INPUT_BYTES})
    made(nested).check({"rows": [], "name": "x" * (MAX_INPUT_BYTES - 50)})


def test_what_was_stored_by_an_older_version_is_checked_again() -> None:
    with pytest.raises(InputInvalid, match="rows"):
        made(nested).bind(b'{"name":"a"}', CONTEXT)


@pytest.mark.anyio
async def test_arguments_as_they_are_written() -> None:
    def mixed(one: int, run: Context, two: int = 2, *, three: int = 3, **others: int) -> None: ...

    operation = made(mixed)

    async def stored(*args: Any, **kwargs: Any) -> Any:
        return loads((await operation.start(*args, **kwargs)).encode())

    assert await stored(1) == {"one": 1, "two": 2, "three": 3}
    assert await stored(1, 5, three=4) == {"one": 1, "two": 5, "three": 4}
    assert await stored(one=1, four=4, others=5) == {
        "one": 1, "two": 2, "three": 3, "four": 4, "others": 5,
    }  # fmt: skip
    for wrong in ((), (1, 2, 3)):
        with pytest.raises(InputInvalid, match="mixed does not take this input: input: "):
            await stored(*wrong)


# --- the way through JSON --------------------------------------------------------------


class Colour(Enum):
    RED = "red"


class Inner(BaseModel):
    size: int
    other_name: str = Field("a", alias="otherName")


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Even(BaseModel):
    size: int

    @field_validator("size")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("odd")
        return value


VALUES: list[tuple[Any, Any]] = [
    (int, 2**70),
    (float, 0.1),
    (float, math.inf),
    (float, -math.inf),
    (bool, True),
    (str, "é\n\u2028\0"),
    (str | None, None),
    (bytes, b"abc"),
    (list[int], [1, 2]),
    (tuple[int, str], (1, "a")),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (dict[str, list[int]], {"a": [1]}),
    (datetime, datetime.fromisoformat("2026-11-20T09:30:00.123456+00:00")),
    (date, date(2026, 11, 20)),
    (timedelta, timedelta(seconds=90.5)),
    (Decimal, Decimal("0.10")),
    (UUID, UUID(int=5)),
    (Path, Path("/tmp/a")),
    (Colour, Colour.RED),
    (Literal["a", "b"], "b"),
    (Inner, Inner(size=3, otherName="b")),
    (list[Inner], [Inner(size=3, otherName="a")]),
    (Point, Point(1.5, 2.0)),
    (Any, {"a": [1, None, "b", 0.5]}),
]


@pytest.mark.parametrize(("hint", "value"), VALUES, ids=lambda one: str(one)[:30])
def test_a_value_survives(hint: Any, value: Any) -> None:
    def same(rows: Any) -> Any:
        return rows

    same.__annotations__["rows"] = hint
    arrived = called(made(same), rows=value)
    assert arrived == value
    assert type(arrived) is type(value)


def test_nan_survives() -> None:
    def same(rows: float = math.nan) -> float:
        return rows

    assert math.isnan(called(made(same)))
    assert math.isnan(called(made(same), rows=math.nan))


def test_keys_of_json_are_the_aliases() -> None:
    def same(inner: Inner) -> Inner:
        return inner

    assert called(made(same), inner={"size": "3", "otherName": "c"}) == Inner(size=3, otherName="c")


def test_an_equal_input_is_the_same_bytes() -> None:
    """An idempotency key is compared with them."""
    operation = made(nested)
    one = operation.check({"rows": [1], "name": "a"})
    assert one == operation.check({"name": "a", "rows": [1], "deep": None})


def test_validators_of_the_input_are_heard() -> None:
    def same(even: Even) -> Even:
        return even

    with pytest.raises(InputInvalid, match=r"even\.size: Value error, odd"):
        made(same).check({"even": {"size": 3}})


# --- a schema that was given -----------------------------------------------------------

GIVEN = {"type": "object", "properties": {"symbol": {"type": "string"}}}


async def as_it_came(run: Sink, input: dict[str, Any]) -> Any:
    """Not what anybody is told."""
    return run, input


def test_a_schema_that_is_given_is_what_is_shown() -> None:
    operation = made(as_it_came, name="market.news", parameters=GIVEN, description="News.")
    assert operation.parameters == GIVEN
    assert (operation.name, operation.description) == ("market.news", "News.")
    assert operation.kind is Kind.COROUTINE
    assert made(as_it_came, parameters=GIVEN, description="").description == ""
    assert made(as_it_came, parameters={}).description == "Not what anybody is told."


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"symbol": "ABC", "n": 1, "x": 1.5, "no": None, "deep": [{"a": [True]}]},
        # Names that mean something to a function, to its model, or to nobody.
        {"run": 1, "input": 2, "self": 3, "model_config": 4, "copy": 5, "__x": 6, "a b": 7},
        {"é\u2028": "\u2028"},
    ],
)
@pytest.mark.anyio
async def test_its_input_comes_as_it_was(given: dict[str, Any]) -> None:
    operation = made(as_it_came, parameters=GIVEN)
    assert await called(operation, **given) == (CONTEXT, given)


@pytest.mark.anyio
async def test_it_starts_with_arguments_by_name() -> None:
    operation = made(as_it_came, parameters=GIVEN)
    assert loads((await operation.start(run=1, symbol="ABC")).encode()) == {
        "run": 1,
        "symbol": "ABC",
    }
    with pytest.raises(InputInvalid, match="given by name"):
        await operation.start("ABC", 1)


def test_what_is_no_json_is_refused_there_too() -> None:
    operation = made(as_it_came, parameters=GIVEN)
    with pytest.raises(InputInvalid, match="cannot be written as JSON"):
        operation.check({"a": object()})
    with pytest.raises(BodyTooLarge):
        operation.check({"a": "x" * MAX_INPUT_BYTES})


# --- traits ----------------------------------------------------------------------------


@pytest.mark.parametrize("detach", [True, False])
def test_a_call_may_be_left(detach: bool) -> None:
    assert made(plain, detach=detach).detach is detach
    assert made(plain).detach is False


# --- for somebody ----------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_run_may_be_somebody_s() -> None:
    started: list[tuple[Any, ...]] = []

    async def start(operation: Operation[Any, Any], given: Mapping[str, Any], *who: str) -> str:
        started.append((operation, dict(given), *who))
        return "run"

    operation: Made = Operation(coroutine, start)
    assert await operation.start(1) == "run"
    assert await operation.by("ada").start(2) == "run"
    assert await operation.by(Access.of("bob", ["run"])).start(rows=3) == "run"
    assert started == [
        (operation, {"rows": 1}),
        (operation, {"rows": 2}, "ada"),
        (operation, {"rows": 3}, "bob"),
    ]
    with pytest.raises(ScopeMissing):
        await operation.by(Access.of("bob", ["watch"])).start(rows=3)
    with pytest.raises(InputInvalid):
        await operation.by("ada").start(lines=3)
    assert len(started) == 3
