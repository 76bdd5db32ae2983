"""The operations there are, by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any

from tailrace.errors import OperationUnknown
from tailrace.operations import Operation


class Operations:
    """The registry: names and what they run."""

    def __init__(self) -> None:
        self._known: dict[str, Operation[Any, Any]] = {}
        self._left: dict[str, Operation[Any, Any]] = {}
        self._lent: dict[str, Operation[Any, Any]] = {}
        self.listeners: set[Callable[[], None]] = set()
        """Called whenever there is one more, or one less, by whatever thread."""

    def add(self, operation: Operation[Any, Any]) -> None:
        """Register. Raises ValueError for a name that is taken."""
        if operation.name in self._known:
            raise ValueError(
                f"There is an operation {operation.name!r} already; give this one a name=."
            )
        self._known[operation.name] = operation
        self._tell()

    def remove(self, operation: Operation[Any, Any]) -> None:
        """No longer offer this one; nothing, if it is not what its name stands for."""
        if self._known.get(operation.name) is operation:
            del self._known[operation.name]
            self._tell()

    def _tell(self) -> None:
        for listener in tuple(self.listeners):
            listener()

    def get(self, name: str) -> Operation[Any, Any]:
        """The operation of that name. Raises OperationUnknown."""
        try:
            return self._known[name]
        except KeyError:
            if name.endswith("()"):
                raise OperationUnknown(
                    f"{name[:80]!r} was made of a generator, and cannot be run again.",
                    fix="Ask the endpoint that made it once more.",
                ) from None
            near = difflib.get_close_matches(name, self._known, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise OperationUnknown(
                f"There is no operation {name[:80]!r}.",
                fix=f"{hint}GET /operations lists what can be run.",
            ) from None

    def find(self, name: str) -> Operation[Any, Any] | None:
        """The operation of that name, if there is one."""
        return self._known.get(name)

    def lend(self, run: str, operation: Operation[Any, Any]) -> None:
        """Have one run do this, whatever its name stands for; nothing, for what is registered."""
        if self._known.get(operation.name) is not operation:
            self._lent[run] = operation

    def take(self, run: str, name: str) -> Operation[Any, Any] | None:
        """What a run that begins here does: what was lent to it, which is then forgotten, or what
        its name stands for.
        """
        return self._lent.pop(run, None) or self.find(name)

    def leave(self, operation: Operation[Any, Any]) -> None:
        """One that nobody starts here: it goes on with runs of that name which another process
        left behind, unless the one that is offered here can.
        """
        self._left[operation.name] = operation

    def heir(self, name: str) -> Operation[Any, Any] | None:
        """The operation that goes on with such runs, if there is one."""
        known = self._known.get(name)
        if known is None or known.traits.resumes is None:
            return self._left.get(name, known)
        return known

    def __iter__(self) -> Iterator[Operation[Any, Any]]:
        """In the order of registration."""
        return iter(self._known.values())
