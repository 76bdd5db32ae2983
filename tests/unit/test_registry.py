"""The operations there are, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tailrace.errors import OperationUnknown
from tailrace.operations import Operation, Traits
from tailrace.registry import Operations

Made = Operation[..., Any]


async def never(*_: Any) -> None: ...


def made(function: Callable[..., Any], **options: Any) -> Made:
    return Operation(function, never, **options)


def plain() -> None: ...


async def coroutine() -> None: ...


def test_operations_are_found_by_name() -> None:
    known = Operations()
    operations = [made(plain, name=name) for name in ("crunch", "train", "report")]
    for operation in operations:
        known.add(operation)
    assert list(known) == operations
    assert known.get("train") is operations[1]
    assert known.find("train") is operations[1]
    assert known.find("trains") is None


def test_a_name_is_taken_once() -> None:
    known = Operations()
    known.add(made(plain))
    with pytest.raises(ValueError, match="an operation 'plain' already; give this one a name="):
        known.add(made(plain))


def test_one_that_is_removed_leaves_its_name() -> None:
    known = Operations()
    first, second = made(plain), made(plain)
    known.add(first)
    known.remove(second)
    assert known.find("plain") is first, "it was another that was meant"
    known.remove(first)
    known.remove(first)
    known.add(second)
    assert list(known) == [second]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("crunsh", "Did you mean crunch?"), ("Crunch", "Did you mean crunch?"), ("zzz", ""), ("", "")],
)
def test_a_near_miss_is_helped(name: str, hint: str) -> None:
    known = Operations()
    known.add(made(plain, name="crunch"))
    with pytest.raises(OperationUnknown) as unknown:
        known.get(name)
    assert unknown.value.fix == f"{hint} GET /operations lists what can be run.".strip()
    assert repr(name) in str(unknown.value)


def test_a_long_name_is_told_in_short() -> None:
    with pytest.raises(OperationUnknown) as unknown:
        Operations().get("x" * 100_000)
    assert len(str(unknown.value)) < 150


def test_who_goes_on_with_what_others_left_behind() -> None:
    def work() -> None: ...

    async def never(*_: Any) -> None: ...

    def made(**options: Any) -> Operation[..., Any]:
        return Operation(work, never, name="script", **options)

    operations = Operations()
    heir = made(traits=Traits(resumes=lambda _: True))
    assert operations.heir("script") is None
    operations.leave(heir)
    assert operations.heir("script") is heir
    assert operations.find("script") is None
    assert list(operations) == []
    with pytest.raises(OperationUnknown):
        operations.get("script")
    plain = made()
    operations.add(plain)
    assert (operations.find("script"), operations.heir("script")) == (plain, heir)
    other = Operations()
    other.leave(heir)
    able = made(traits=Traits(resumes=lambda _: False))
    other.add(able)
    assert other.heir("script") is able


def test_who_wants_to_know_hears_of_each_change() -> None:
    operations, heard = Operations(), []
    operations.listeners.add(lambda: heard.append([one.name for one in operations]))
    first, second = made(plain), made(coroutine)
    operations.add(first)
    operations.add(second)
    operations.remove(first)
    operations.remove(first)
    assert heard == [["plain"], ["plain", "coroutine"], ["coroutine"]]


def test_a_run_may_be_lent_what_has_no_name_here() -> None:
    known = Operations()
    known.add(named := made(plain))
    known.lend("run_a", own := made(plain))
    known.lend("run_b", named)
    assert known.take("run_a", "plain") is own
    assert known.take("run_a", "plain") is named, "it is lent once"
    assert known.take("run_b", "plain") is named
    assert known.take("run_c", "nothing") is None


def test_what_was_made_of_a_generator_is_not_had_again() -> None:
    known = Operations()
    known.add(made(plain, name="count"))
    with pytest.raises(OperationUnknown, match="made of a generator") as unknown:
        known.get("count()")
    assert unknown.value.fix == "Ask the endpoint that made it once more."
