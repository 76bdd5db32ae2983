"""A server that speaks OpenAI's Chat Completions, as far as a test has it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any


def chunk(content: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    """A piece of a streamed answer."""
    delta = {"role": "assistant", "content": content, **more}
    said = {
        "id": "x", "object": "chat.completion.chunk", "created": 1, "model": "there",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }  # fmt: skip
    return f"data: {json.dumps(said)}\n\n".encode()


def call(name: str, args: str, id: str = "call_1", finish: str | None = None) -> bytes:
    """A piece of a streamed answer, which is a call."""
    function = {"name": name, "arguments": args}
    asked = [{"index": 0, "id": id, "type": "function", "function": function}]
    return chunk(None, finish, tool_calls=asked)


DONE = b"data: [DONE]\n\n"


class Talking:
    """Answers each request with the next of `answers`, the last one for ever: a status and a body,
    or the pieces of a stream. `asked` are the bodies of the requests, `keys` what they showed.
    """

    def __init__(self, answers: Sequence[tuple[int, str] | list[bytes]]) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            fields = {name.lower(): value for name, value in fields.items()}
            body = await reader.readexactly(int(fields.get("content-length", 0)))
            self.asked.append(json.loads(body))
            self.keys.append(fields.get("authorization", ""))
            answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
            await self._answer(writer, answer)
        writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, answer: tuple[int, str] | list[bytes]
    ) -> None:
        if isinstance(answer, tuple):
            status, said = answer
            body = json.dumps({"error": {"message": said, "type": "x", "code": None}}).encode()
            kind, pieces = "application/json", [body]
        else:
            status, kind, pieces = 200, "text/event-stream", answer
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()


@contextlib.asynccontextmanager
async def talking(*answers: tuple[int, str] | list[bytes]) -> AsyncIterator[Talking]:
    """One, while it is asked."""
    one = Talking(answers)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield one
    finally:
        server.close()
