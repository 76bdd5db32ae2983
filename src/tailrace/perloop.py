"""What there is one of for each event loop, for as long as the loop is there."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary


class PerLoop:
    """A base class of such things: `here()` is the running loop's own."""

    _all: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Any]]

    def __init_subclass__(cls) -> None:
        cls._all = WeakKeyDictionary()

    @classmethod
    def here(cls) -> Self:
        """That of the running loop, made at the first call."""
        loop = asyncio.get_running_loop()
        found: Self | None = cls._all.get(loop)
        if found is None:
            found = cls._all[loop] = cls()
        return found
