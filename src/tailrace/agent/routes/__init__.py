"""The chat over HTTP: its own endpoints, and those that other clients know, one file each."""

from __future__ import annotations

from fastapi import APIRouter

from tailrace.agent.chat import Chat
from tailrace.agent.routes import agui, aisdk, responses, story
from tailrace.agent.routes.turns import Turns


def router(chat: Chat) -> APIRouter:
    """All endpoints of a chat, to be included where those of its engine's runs are."""
    turns = Turns(chat)
    routes = APIRouter()
    for dialect in (story, agui, aisdk, responses):
        routes.include_router(dialect.router(turns))
    return routes


__all__ = ["router"]
