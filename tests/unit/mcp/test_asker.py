from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from tailrace import Access, Tailrace
from tailrace.errors import (
    InputInvalid,
    LogFull,
    RunUnknown,
    ScopeMissing,
    TailraceError,
    TooManyRequests,
    Unauthorized,
)
from tailrace.mcp.asker import Asker, Context, extensions, refuse, told
from tailrace.protocol.access import OPEN, RUN, WATCH, WHO

pytestmark = pytest.mark.anyio


@dataclass
class Asked:
    scope: dict[str, Any] | None = field(default_factory=dict)
    known: Any = None

    @property
    def request(self) -> Any:
        return None if self.scope is None else SimpleNamespace(scope=self.scope)

    @property
    def session(self) -> Any:
        return SimpleNamespace(client_capabilities=self.known)


def context(scope: dict[str, Any] | None = None, known: Any = None) -> Context:
    return cast("Context", Asked(scope, known))


ANN = Access.of("ann")


def test_it_is_who_was_found_to_ask() -> None:
    assert Asker(Tailrace("memory:")).who(context({WHO: ANN})) == ANN


def test_without_http_it_is_who_started_us() -> None:
    assert Asker(Tailrace("memory:"), ANN).who(context()) == ANN
    assert Asker(Tailrace("memory:")).who(context()) == OPEN


def test_where_nobody_is_told_apart_all_are_alike() -> None:
    assert Asker(Tailrace("memory:")).who(context({})) == OPEN


def test_where_all_are_told_apart_nobody_comes_unknown() -> None:
    runs = Tailrace("memory:", principal=lambda _: "ann")
    with pytest.raises(MCPError, match="Nobody has found out"):
        Asker(runs).who(context({}))


async def test_a_scope_is_needed() -> None:
    asker = Asker(Tailrace("memory:"))
    scope = {WHO: Access.of("ann", [WATCH])}
    assert (await asker.admitted(context(scope), WATCH)).principal == "ann"
    with pytest.raises(MCPError, match="not the scope 'run'"):
        await asker.admitted(context(scope), RUN)


async def test_how_often_is_counted_where_there_is_an_address() -> None:
    runs = Tailrace("memory:")
    counted: list[str] = []

    class Rates:
        async def admit(self, scope: Any, need: str) -> None:
            counted.append(need)
            raise TooManyRequests("Too often.", fix="Wait.", retry_after=7)

    runs.rates = Rates()
    await Asker(runs).admitted(context(), RUN)
    assert counted == []
    with pytest.raises(MCPError, match="Too often") as refused:
        await Asker(runs).admitted(context({}), RUN)
    assert counted == [RUN]
    assert refused.value.error.data["fix"] == "Wait."


async def test_to_ask_what_there_is_takes_no_scope_but_counts() -> None:
    runs = Tailrace("memory:")
    counted: list[str] = []

    class Rates:
        async def admit(self, scope: Any, need: str) -> None:
            counted.append(need)
            if len(counted) > 1:
                raise TooManyRequests("Too often.", fix="Wait.")

    runs.rates = Rates()
    scope = {WHO: Access.of("ann", [RUN])}
    assert (await Asker(runs).listing(context(scope))).principal == "ann"
    with pytest.raises(MCPError, match="Too often"):
        await Asker(runs).listing(context(scope))
    assert counted == [WATCH, WATCH]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputInvalid("no"), types.INVALID_PARAMS),
        (RunUnknown("no"), types.INVALID_PARAMS),
        (ScopeMissing("no"), types.INVALID_REQUEST),
        (TooManyRequests("no"), types.INVALID_REQUEST),
        (Unauthorized("no"), types.INVALID_REQUEST),
        (LogFull("no", path="/secret"), types.INTERNAL_ERROR),
    ],
)
def test_errors_keep_their_names(error: TailraceError, code: int) -> None:
    made = told(error).error
    assert made.code == code
    assert made.message == "no"
    assert made.data["code"] == error.code
    assert "path" not in made.data
    with pytest.raises(MCPError):
        refuse(error)


def test_extensions_are_those_that_were_declared() -> None:
    assert extensions(context()) == {}
    assert extensions(context(None, types.ClientCapabilities())) == {}
    known = types.ClientCapabilities(extensions={"com.example/x": {"n": 1}})
    assert extensions(context(None, known)) == {"com.example/x": {"n": 1}}
