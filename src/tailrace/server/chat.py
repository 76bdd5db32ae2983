"""The table [chat] of a settings file: a language model with tools.

    [chat]
    model = "openai:gpt-5"              # without it the built-in one; the key is in OPENAI_API_KEY
    models = ["anthropic:*", "local"]   # what a request may ask for besides
    instructions = "Be brief."
    tools = ["shop.stock:find"]         # functions, beside the file
    operations = ["market.*"]           # runs of this server that it may start
    iterations = 10
    timeout = 600
    history = "server"                  # or "client": a request says what came before

    [chat.endpoints.local]              # any server that speaks Chat Completions
    model = "qwen"
    base_url = "http://127.0.0.1:18081/v1"
    key_env = "LOCAL_KEY"               # the variable with the key, if it wants one

[chat.rules.NAME] and [[chat.routes]] are those of `agent.router`.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tailrace.agent import router
from tailrace.agent.models import DEMO, Endpoint
from tailrace.agent.router import Router
from tailrace.errors import SettingsInvalid
from tailrace.protocol.masking import MIN_CHARACTERS

_MAX_ITERATIONS: Final = 100
_MAX_TIMEOUT: Final = 86_400.0

# `module:function`.
_FUNCTION: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)

_EXAMPLE: Final = 'Write something like model = "openai:gpt-5", tools = ["shop.stock:find"].'
_ENDPOINT: Final = (
    'Write something like model = "qwen", base_url = "http://127.0.0.1:18081/v1", '
    'key_env = "LOCAL_KEY".'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """What is configured of the chat: the options of `agent.chat.Chat`, but that `tools` are the
    names of functions, as `module:function`, found from `folder`. `secrets`: the environment
    variables with the keys of `endpoints`.
    """

    model: str = DEMO
    models: tuple[str, ...] = ()
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    instructions: str | None = None
    iterations: int = 10
    timeout: float = 600.0
    client_history: bool = False
    router: Router = field(default_factory=Router)
    secrets: tuple[str, ...] = ()
    folder: Path = field(default_factory=Path)

    def options(self) -> dict[str, Any]:
        """Those of `Chat`. Raises SettingsInvalid for a function that cannot be found."""
        names = ("model", "models", "endpoints", "operations", "instructions", "iterations")
        told = {name: getattr(self, name) for name in (*names, "timeout", "client_history")}
        return {**told, "router": self.router, "tools": [self._function(t) for t in self.tools]}

    def masked(self, env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
        """The environment variables whose values must not be told: `secrets`, and where the keys
        of the providers usually are. What is too short to be masked is nobody's secret.
        """
        models = (self.model, *self.models, *(one.model for one in self.endpoints.values()))
        chosen = (*models, *(route.model or "" for route in self.router.routes))
        providers = [name.partition(":")[0].upper() for name in chosen if ":" in name]
        # `openai-responses` has the key of `openai`.
        usual = [f"{said.partition('-')[0]}_API_KEY" for said in providers]
        names = dict.fromkeys((*self.secrets, *usual))
        return tuple(name for name in names if len(env.get(name, "")) >= MIN_CHARACTERS)

    def _function(self, name: str) -> Callable[..., Any]:
        module, _, attribute = name.partition(":")
        where = str(self.folder.resolve())
        if where not in sys.path:
            sys.path.insert(0, where)
        fix = "Name a module beside the settings file, and its function, like stock:find."
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise SettingsInvalid(
                f"There is no function {name!r}, which chat.tools names: {error}.", fix=fix
            ) from None
        except Exception as error:
            # Whatever somebody's module does.
            raise SettingsInvalid(
                f"{name!r}, which chat.tools names, cannot be imported: "
                f"{type(error).__name__}: {error}.",
                fix=f"Mend {module}, or leave it out.",
            ) from error
        if not callable(found):
            raise SettingsInvalid(f"{name!r}, which chat.tools names, is no function.", fix=fix)
        made: Callable[..., Any] = found
        return made


def read(table: Mapping[str, Any], folder: Path) -> ChatSettings:
    """The table [chat]; `folder` is where the file is. Raises SettingsInvalid, naming the place."""
    given: dict[str, Any] = {"folder": folder, "router": router.read(table)}
    secrets: list[str] = []
    for name, value in table.items():
        if name in ("rules", "routes"):
            continue
        if name == "endpoints":
            given[name] = _endpoints(value, secrets)
            continue
        if name not in _READ:
            known = ", ".join((*_READ, "endpoints", "rules", "routes"))
            raise SettingsInvalid(f"chat.{name} is not one of {known}.", fix=_EXAMPLE)
        field_, reader = _READ[name]
        try:
            given[field_] = reader(value)
        except ValueError as error:
            raise SettingsInvalid(f"chat.{name} must be {error}.", fix=_EXAMPLE) from None
    return ChatSettings(**given, secrets=tuple(secrets))


def _endpoints(value: Any, secrets: list[str]) -> dict[str, Endpoint]:
    if not isinstance(value, dict):
        raise SettingsInvalid("chat.endpoints must be tables.", fix="Write [chat.endpoints.NAME].")
    return {name: _endpoint(name, table, secrets) for name, table in value.items()}


def _endpoint(name: str, table: Any, secrets: list[str]) -> Endpoint:
    where = f"chat.endpoints.{name}"
    if not isinstance(table, dict) or not table.keys() <= {"model", "base_url", "key_env"}:
        raise SettingsInvalid(f"{where} has more than model, base_url, key_env.", fix=_ENDPOINT)
    said = {key: table[key] for key in table}
    wrong = next((key for key, text in said.items() if not _is_text(text)), None)
    if wrong is not None or "model" not in said:
        raise SettingsInvalid(f"{where}.{wrong or 'model'} must be a text.", fix=_ENDPOINT)
    if name == DEMO:
        raise SettingsInvalid(
            f"{where} would be asked by the name of the built-in model.", fix="Name it otherwise."
        )
    url = said.get("base_url")
    if url is not None and not _is_server(url):
        raise SettingsInvalid(f"{where}.base_url is not the URL of a server.", fix=_ENDPOINT)
    variable, key = said.get("key_env"), None
    if variable is not None:
        key = os.environ.get(variable)
        if not key:
            raise SettingsInvalid(
                f"{where} wants the key in {variable}, and that variable is not set.",
                fix=f"export {variable}=…, or leave key_env out where no key is wanted.",
            )
        secrets.append(variable)
    return Endpoint(said["model"], url, key)


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _text(value: Any) -> str:
    if not _is_text(value):
        raise ValueError("a text")
    return str(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(map(_is_text, value)):
        raise ValueError("a list of texts")
    return tuple(value)


def _functions(value: Any) -> tuple[str, ...]:
    names = _texts(value)
    if not all(map(_FUNCTION.fullmatch, names)):
        raise ValueError("a list of functions, each as module:function")
    return names


def _iterations(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _MAX_ITERATIONS:
        raise ValueError(f"a whole number from 1 to {_MAX_ITERATIONS}")
    return value


def _timeout(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= _MAX_TIMEOUT:
        raise ValueError(f"a number of seconds, at most {_MAX_TIMEOUT:g}")
    return float(value)


def _history(value: Any) -> bool:
    if value not in ("server", "client"):
        raise ValueError('"server" or "client"')
    return bool(value == "client")


_READ: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "model": ("model", _text),
    "models": ("models", _texts),
    "instructions": ("instructions", _text),
    "tools": ("tools", _functions),
    "operations": ("operations", _texts),
    "iterations": ("iterations", _iterations),
    "timeout": ("timeout", _timeout),
    "history": ("client_history", _history),
}

__all__ = ["ChatSettings", "read"]
