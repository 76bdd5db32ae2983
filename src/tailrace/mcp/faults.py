"""What went wrong with a call to another server, in our own words.

The SDK works in task groups, so that whatever fails comes in groups of groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import httpx2
from mcp import MCPError
from mcp_types import CONNECTION_CLOSED
from pydantic import ValidationError

from tailrace.errors import RunLost, ServerUnreachable, TailraceError
from tailrace.mcp.address import Address

MAX_SAID: Final = 8000
"""How many characters of what an upstream says of an error are told."""

# Raised before anything of a request could leave.
_UNCONNECTED: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, TimeoutError)


class ToolFailed(TailraceError):
    """A tool of another MCP server answered with an error, or that server refused the call."""

    status = 502
    code = "tool-failed"
    title = "The tool failed"


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, however deep."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def is_unsent(error: BaseException) -> bool:
    """Whether a connection was refused: so nothing was asked, and one may ask again. What has
    taken all the time there is to connect is not worth another try.
    """
    return all(isinstance(leaf, httpx2.ConnectError) for leaf in leaves(error))


def fault(error: BaseException, address: Address, tool: str) -> TailraceError:
    """The error that a run of `tool` ends with: RunLost, where a call was sent and nobody knows
    what became of it.
    """
    found = list(leaves(error))
    ours = next((leaf for leaf in found if isinstance(leaf, TailraceError)), None)
    if ours is not None:
        return ours
    # What the transport says is nearer to the cause than what the session makes of it.
    nearest = next((leaf for leaf in found if isinstance(leaf, httpx2.TransportError)), found[0])
    return _fault(nearest, address, tool)


def _fault(error: BaseException, address: Address, tool: str) -> TailraceError:
    name, where = address.name, address.shown
    if isinstance(error, _UNCONNECTED):
        return ServerUnreachable(
            f"The upstream {name} does not answer at {where}.",
            fix=f"Start it, or correct mcp.upstreams.{name}.",
        )
    if isinstance(error, httpx2.ReadTimeout):
        return RunLost(
            f"The upstream {name} has sent nothing for {address.silence:g} s; {tool} may still "
            "work there.",
            fix=f"If it may be silent for so long, give mcp.upstreams.{name} another silence.",
        )
    if isinstance(error, OSError):
        return ServerUnreachable(
            f"The upstream {name} cannot be started: {error.strerror or error}.",
            fix=f"Correct the command of mcp.upstreams.{name}.",
        )
    is_cut = isinstance(error, MCPError) and error.code == CONNECTION_CLOSED
    if is_cut or isinstance(error, httpx2.TransportError):
        return RunLost(
            f"The upstream {name} was gone before {tool} had answered: {_said(error)}.",
            fix=f"Look into the log of {where}; whether {tool} has done its work, nobody knows.",
        )
    if isinstance(error, MCPError):
        return ToolFailed(
            f"The upstream {name} refused {tool}: {_said(error)}.",
            fix=f"Look into the log of {where}; perhaps it wants a key, or has other tools by now.",
            rpc_code=error.code,
        )
    what = "something that is no result" if isinstance(error, ValidationError) else _said(error)
    return ToolFailed(f"The upstream {name} answered {tool} with {what}.")


def _said(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:MAX_SAID].rstrip(". ")
