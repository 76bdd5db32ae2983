"""A server of a run, within the process: what is appended there, and how that is answered."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx2

KEPT = {"appended": 1, "last_event_id": "1", "state": "running"}


class Far:
    """A server of the run, in this process: it answers what it is told to, else 200."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.asked: list[httpx2.Request] = []
        self.answers: list[httpx2.Response | Exception] = []
        self.open = threading.Event()
        self.open.set()
        self.http = httpx2.Client(transport=httpx2.MockTransport(self._answer))

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        assert self.open.wait(10)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        told = json.loads(request.content)["events"]
        self.events += [(event["type"], event["data"]) for event in told]
        return httpx2.Response(200, json=KEPT)

    @property
    def told(self) -> list[int]:
        """The numbers of its events."""
        return [data["n"] for _, data in self.events]

    def refuse(self, status: int, code: str, **more: Any) -> None:
        document = {"code": code, "detail": "Because.", "fix": "Mend it.", **more}
        self.answers.append(httpx2.Response(status, json=document))
