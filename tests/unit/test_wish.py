from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from tailrace.errors import InputInvalid, KeyReused, PathForbidden
from tailrace.operations import Operation, Traits
from tailrace.testing.logbook import new_run
from tailrace.wish import check_same, wished

pytestmark = pytest.mark.anyio

COLUMNS: dict[str, Any] = {"id": new_run().id, "principal": "ada", "created_at": 1.0}


async def never(*_: Any) -> None:
    raise AssertionError


def crunch(rows: int = 3) -> None: ...


def operation(**options: Any) -> Operation[..., None]:
    return Operation(crunch, never, **options)


async def test_what_is_not_wished_for_is_as_the_operation_has_it() -> None:
    known = operation(timeout=5.0, abandon_after=6.0)
    run = await wished(known, {}, **COLUMNS)
    assert (run.operation, run.input, run.principal) == ("crunch", b'{"rows":3}', "ada")
    assert (run.timeout, run.abandon_after) == (5.0, 6.0)
    run = await wished(known, {"rows": 4}, timeout=1.0, abandon_after=2.0, **COLUMNS)
    assert (run.input, run.timeout, run.abandon_after) == (b'{"rows":4}', 1.0, 2.0)


@pytest.mark.parametrize("name", ["timeout", "abandon_after"])
async def test_a_duration_that_is_none(name: str) -> None:
    with pytest.raises(InputInvalid, match=f"{name} must be a positive number"):
        await wished(operation(), {}, **{**COLUMNS, name: -1.0})


async def test_the_thread_is_the_one_that_is_asked_for() -> None:
    assert (await wished(operation(), {}, **COLUMNS)).thread is None
    assert (await wished(operation(), {}, thread="chat 7 ☃", **COLUMNS)).thread == "chat 7 ☃"


@pytest.mark.parametrize("text", ["", "x" * 201, "a\n", "a\0b", "\x85", "\ud800", "a\udfff"])
async def test_a_thread_that_no_log_could_keep(text: str) -> None:
    with pytest.raises(InputInvalid, match="thread must be a text of 1 to 200") as refused:
        await wished(operation(), {}, thread=text, **COLUMNS)
    assert refused.value.fix
    str(refused.value).encode()


async def test_a_guard_sees_what_would_be_kept() -> None:
    seen: list[tuple[Mapping[str, Any], bool]] = []
    home = threading.get_ident()

    def guard(given: Mapping[str, Any]) -> None:
        seen.append((given, threading.get_ident() != home))
        if given["rows"] > 5:
            raise PathForbidden("Too many.")

    known = operation(traits=Traits(guard=guard))
    await wished(known, {"rows": "4"}, **COLUMNS)
    assert seen == [({"rows": 4}, True)]
    with pytest.raises(PathForbidden):
        await wished(known, {"rows": 6}, **COLUMNS)
    with pytest.raises(InputInvalid):
        await wished(known, {"rows": "many"}, **COLUMNS)
    assert len(seen) == 2


def test_one_key_is_one_wish() -> None:
    kept = new_run(timeout=5.0, key="k")
    check_same(kept, new_run(timeout=5.0, key="k"))
    with pytest.raises(KeyReused, match=f"'k' already names {kept.id}"):
        check_same(kept, new_run(timeout=6.0, key="k"))
    with pytest.raises(KeyReused, match="or thread"):
        check_same(kept, new_run(timeout=5.0, key="k", thread="t"))
