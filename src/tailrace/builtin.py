"""Operations that come with Tailrace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from tailrace.run import RunContext
from tailrace.runners import script as runner


def script(roots: Sequence[Path]) -> Callable[..., Awaitable[dict[str, Any]]]:
    """The operation `script`: a file below one of `roots`, in its own folder."""

    async def script(run: RunContext, file: str, args: list[str] | None = None) -> dict[str, Any]:
        """Run a script below one of the server's allowed folders and tell its output."""
        path = runner.locate(file, roots)
        argv = runner.command(path, args or [])
        return await runner.execute(run, argv, cwd=path.parent, env=runner.environment(run.id))

    return script


def command(cwd: Path) -> Callable[..., Awaitable[dict[str, Any]]]:
    """The operation `command`: any program, in the environment of whoever starts it.

    Only for the terminal, where the one who asks is the one whose rights it has.
    """

    async def command(run: RunContext, argv: list[str]) -> dict[str, Any]:
        """Run a program and tell its output."""
        return await runner.execute(
            run, argv, cwd=cwd, env=runner.environment(run.id, inherit=True)
        )

    return command
