"""`@runs.operation(timeout=60)`: options that wait for their function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, overload

from tailrace.operations import Operation
from tailrace.run import Run, RunContext

P = ParamSpec("P")


class Decorator:
    """Makes a function an operation. `offer` is what an engine does with it."""

    def __init__(
        self, offer: Callable[..., Operation[..., Run]], options: Mapping[str, Any]
    ) -> None:
        self._offer = offer
        self._options = options

    @overload
    def __call__(
        self, function: Callable[Concatenate[RunContext, P], Any], /
    ) -> Operation[P, Run]: ...
    @overload
    def __call__(self, function: Callable[P, Any], /) -> Operation[P, Run]: ...
    def __call__(self, function: Callable[..., Any], /) -> Operation[..., Run]:
        return self._offer(function, **self._options)


__all__ = ["Decorator"]
