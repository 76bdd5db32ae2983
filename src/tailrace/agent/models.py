"""Which language models a chat may ask, by which names, and the way to each of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from tailrace.errors import InputInvalid, SettingsInvalid

if TYPE_CHECKING:
    from pydantic_ai.models import Model

DEMO: Final = "demo"
"""The built-in model, which is no real one."""

MAX_NAME: Final = 200

# A pattern may let requests name any number of them, and each keeps its connections.
_MOST_KEPT: Final = 32


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is asked. `model` is its name there; with `base_url`, of a server that speaks
    OpenAI's Chat Completions (as Ollama, vLLM and llama.cpp do), otherwise "provider:name".
    `key`: what to show there; None: what the provider's environment variable has, or nothing.
    """

    model: str
    base_url: str | None = None
    key: str | None = field(default=None, repr=False)


class Models:
    """The models of one chat.

    `default`: the name of the one that is asked unless a request says otherwise, or a model of
    pydantic-ai. `allowed`: patterns of further names that requests may give ("openai:*").
    `endpoints`: further models, by the names that stand for them. A request cannot give an
    address. Raises SettingsInvalid for a name that makes no sense.
    """

    def __init__(
        self,
        default: str | Model = DEMO,
        allowed: Sequence[str] = (),
        endpoints: Mapping[str, Endpoint] = MappingProxyType({}),
    ) -> None:
        if isinstance(allowed, str):
            raise SettingsInvalid(
                "models is one text, and must be a list of patterns.", fix='Give ["openai:*"].'
            )
        self._kept: OrderedDict[str, Model] = OrderedDict()
        self._own: Model | None = None
        # Models are made in threads.
        self._lock = threading.Lock()
        if isinstance(default, str):
            self.default = default
        else:
            self.default, self._own = default.model_id, default
        self.allowed = tuple(allowed)
        self.endpoints = dict(endpoints)
        for name in (self.default, *self.endpoints):
            if not name.strip() or len(name) > MAX_NAME:
                raise SettingsInvalid(
                    f"{name[:40]!r} is no model's name.", fix='Give something like "openai:gpt-5".'
                )

    @property
    def names(self) -> list[str]:
        """Those that have one of their own: what a client may be shown."""
        return list(dict.fromkeys((self.default, *self.endpoints, DEMO)))

    @property
    def keys(self) -> list[str]:
        """What must not be told."""
        return [endpoint.key for endpoint in self.endpoints.values() if endpoint.key]

    def choose(self, asked: str | None) -> str:
        """The name of the model for a request that asks for `asked`; None: the default.

        Raises InputInvalid, if requests may not ask for it.
        """
        if asked is None or asked == self.default:
            return self.default
        names = (DEMO, *self.endpoints)
        fits = asked in names or any(fnmatchcase(asked, pattern) for pattern in self.allowed)
        if fits and len(asked) <= MAX_NAME:
            return asked
        raise InputInvalid(
            f"This server does not ask the model {asked[:80]!r}.",
            fix=f"Leave model out, or take one of these: {', '.join(self.names)[:400]}.",
            errors=[{"where": "model", "what": "It is none that requests may ask for"}],
        )

    def resolve(self, name: str) -> Model:
        """The model of a name that `choose` answered, or the settings have. Its package is
        imported, so this may take a second: call it in a thread.

        Raises SettingsInvalid, which says what to install or to set; InputInvalid for a name that
        no provider has.
        """
        if self._own is not None and name == self.default:
            return self._own
        with self._lock:
            made = self._kept.get(name)
            if made is None:
                made = self._kept[name] = self._made(name)
            self._kept.move_to_end(name)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return made

    def known(self, name: str) -> Model | None:
        """The model of that name, if it was made before."""
        return self._own if name == self.default and self._own is not None else self._kept.get(name)

    def _made(self, name: str) -> Model:
        endpoint = self.endpoints.get(name)
        if endpoint is None and name == DEMO:
            made: Model = import_module("tailrace.agent.demo").model()
            return made
        from pydantic_ai.exceptions import UserError  # noqa: PLC0415 - it takes its time

        try:
            if endpoint is None:
                return _inferred(name, None)
            if endpoint.base_url is None:
                return _inferred(endpoint.model, endpoint.key)
            return _compatible(name, endpoint)
        except ImportError as error:
            raise SettingsInvalid(
                f"The model {name} needs a package that is not installed: {error}.",
                fix="Install what its provider needs, as pip install 'pydantic-ai-slim[openai]'.",
            ) from error
        except UserError as error:
            if str(error).startswith("Unknown model"):
                raise InputInvalid(
                    f"There is no model {name[:80]!r}.", fix="Name one as provider:model."
                ) from None
            said = str(error).split(" To try Pydantic AI")[0]
            raise SettingsInvalid(
                f"The model {name} cannot be asked: {said}",
                fix="Set the key of its provider where the server is started.",
            ) from None


def _inferred(name: str, key: str | None) -> Model:
    """A model of a provider that pydantic-ai knows."""
    from pydantic_ai.models import infer_model  # noqa: PLC0415
    from pydantic_ai.providers import infer_provider, infer_provider_class  # noqa: PLC0415

    def provider(provider: str) -> Any:
        kind: Any = infer_provider_class(provider)
        return kind(api_key=key)

    return infer_model(name, provider_factory=infer_provider if key is None else provider)


def _compatible(name: str, endpoint: Endpoint) -> Model:
    """A model behind an address of one's own."""
    from pydantic_ai.models.openai import OpenAIChatModel  # noqa: PLC0415
    from pydantic_ai.profiles.openai import OpenAIModelProfile  # noqa: PLC0415
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider  # noqa: PLC0415

    # The key of OpenAI itself is never shown there, whatever the environment has.
    provider = OpenAICompatibleProvider(
        name, base_url=str(endpoint.base_url), api_key=endpoint.key or "none"
    )
    # An answer that breaks off would pass for a whole one.
    profile = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
    return OpenAIChatModel(endpoint.model, provider=provider, profile=profile)
