"""What clients of a chat send, as far as it is read: messages, and the text in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from pydantic import BaseModel, ConfigDict, Field

from tailrace.agent.history import MAX_BYTES
from tailrace.agent.parts import size
from tailrace.errors import InputInvalid

MAX_ID: Final = 100
"""How long a client's own id of something may be."""

MAX_MESSAGES: Final = 1000

# By the clients that there are, each in its own word.
_TEXTS: Final = frozenset({"text", "input_text", "output_text"})
_SPEAKERS: Final = frozenset({"user", "assistant"})


class Sent(BaseModel):
    """A request in somebody else's protocol: what it has besides is theirs to know."""

    model_config = ConfigDict(extra="ignore")


class Message(Sent):
    """One message. `content` is text, or a list of parts; the AI SDK has `parts` instead. What is
    no message but stands among them, like a call, has no role.
    """

    id: str | None = Field(None, max_length=200)
    role: str = Field("", max_length=40)
    content: Any = None
    parts: list[Any] | None = None

    @property
    def text(self) -> str:
        """All of its text. Raises InputInvalid for a part that is none, in a user's message."""
        content = self.content if self.parts is None else self.parts
        if content is None:
            return ""
        if isinstance(content, str):
            return content
        if not isinstance(content, list):
            refuse("messages", "The content of a message is text, or a list of parts")
        return "".join(self._texts(content))

    def _texts(self, content: Iterable[Any]) -> Iterable[str]:
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            is_text = isinstance(kind, str) and kind in _TEXTS
            if is_text and isinstance(part.get("text"), str):
                yield part["text"]
            elif self.role == "user":
                # An answer's steps and calls are its own; what a person sends must not get lost.
                refuse("messages", f"Only text can be sent here, not a part of type {kind!r:.40}")


class Asked(NamedTuple):
    """What a client wants answered, its id of that message, and what it says came before."""

    message: str
    id: str | None = None
    before: Sequence[Message] = ()

    @property
    def history(self) -> list[dict[str, str]]:
        """What came before, as a turn takes it: the latest of it, as much as is read of what the
        server keeps. Raises InputInvalid for what is no text.
        """
        said = [(one.role, one.text) for one in self.before if one.role in _SPEAKERS]
        told = [{"role": role, "content": text} for role, text in said if text]
        left = MAX_BYTES - size(self.message)
        for at in range(len(told) - 1, -1, -1):
            left -= size(told[at])
            if left < 0:
                # An answer to nothing is more than some providers take.
                return told[at + 1 :] if told[at]["role"] == "assistant" else told[at + 2 :]
        return told


def newest(messages: Sequence[Message]) -> Asked:
    """The last message, which must be a user's, and those before it. Raises InputInvalid."""
    if not messages or messages[-1].role != "user":
        refuse("messages", "The last message must be of the role user: it is what is asked")
    last = messages[-1]
    return Asked(last.text, last.id, messages[:-1])


def refuse(where: str, what: str) -> NoReturn:
    """Raise InputInvalid."""
    raise InputInvalid(
        f"The request does not fit: {where}: {what}.",
        fix="docs/agents.md shows what is taken here.",
        errors=[{"where": where, "what": what}],
    )
