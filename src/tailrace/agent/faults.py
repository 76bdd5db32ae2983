"""What went wrong in a turn, in words for those who asked: what, why, and what to do."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import Any, Final

from pydantic_ai import exceptions

from tailrace.errors import TailraceError
from tailrace.protocol.masking import MASK
from tailrace.protocol.problems import said, shortened

MAX_SAID: Final = 500
"""How many characters of what a provider says of an error are told."""

# Providers repeat the key they refuse, and servers before them all of a header.
_KEYS: Final = re.compile(
    r"\b(?:sk|pk|gsk|xai|key|api)[-_][\w.*-]{4,}|\bAIza[\w-]{8,}|(?<=Bearer )[^\s\"',]+",
    re.IGNORECASE,
)

logger = logging.getLogger("tailrace.agent")


class ModelFailed(TailraceError):
    """A language model, or the way to it, failed."""

    status = 502
    code = "model-failed"
    title = "The model failed"


class IterationLimit(TailraceError):
    """A turn took as many iterations as it may, and still had no answer."""

    code = "iteration-limit"
    title = "The turn took too many iterations"


def clean(text: str, secrets: Collection[str] = ()) -> str:
    """A text in which neither `secrets` nor what looks like a key is told."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, MASK)
    return _KEYS.sub(MASK, text)


def told(
    error: Exception, model: str, iterations: int, secrets: Collection[str] = ()
) -> TailraceError:
    """The error that a turn ends with, where the loop or its `model` raised `error`."""
    if isinstance(error, ExceptionGroup):
        # Of models that were asked one after the other, the last.
        return told(error.exceptions[-1], model, iterations, secrets)
    if isinstance(error, TailraceError):
        return error
    if isinstance(error, exceptions.UsageLimitExceeded):
        return IterationLimit(
            f"The turn had its {iterations} iterations, and the model still wants to call tools.",
            fix="Ask for less at once, or have the server allow more iterations.",
        )
    words = shortened(clean(_words(error), secrets), MAX_SAID).rstrip(". ")
    for kind, what, fix in _FAULTS:
        if isinstance(error, kind):
            return ModelFailed(what.format(model=model, words=words), fix=fix, **_details(error))
    logger.error("A turn with %s failed", model, exc_info=error)
    return ModelFailed(f"The turn failed: {words}.", fix="The server's own log says more.")


def _words(error: Exception) -> str:
    """What the provider itself says, where it says something."""
    body: Any = getattr(error, "body", None)
    for key in ("error", "message"):
        if isinstance(body, dict) and body.get(key):
            body = body[key]
    if isinstance(body, str) and body:
        return body
    if isinstance(error, exceptions.ModelHTTPError):
        return f"HTTP {error.status_code}"
    return said(error) or type(error).__name__


def _details(error: Exception) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(error, exceptions.ModelHTTPError):
        found["status_code"] = error.status_code
    wait = getattr(error, "retry_after", None)
    if wait is not None:
        found["retry_after"] = wait
    return found


_LATER: Final = "Ask again in a while, or ask another model."

# The first that fits. What a provider says of a key it refuses is not repeated.
_FAULTS: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (
        exceptions.ModelAuthenticationError,
        "The provider of {model} refuses the key that this server has.",
        "Correct the key, in the provider's environment variable or the settings of the chat.",
    ),
    (
        exceptions.ModelQuotaExceededError,
        "The account of this server with the provider of {model} has nothing left: {words}.",
        "Add credit to it, or ask another model.",
    ),
    (
        exceptions.ModelRateLimitError,
        "The provider of {model} is asked too often: {words}.",
        _LATER,
    ),
    (
        exceptions.ModelContextWindowExceededError,
        "The conversation is longer than {model} can read: {words}.",
        "Begin a new conversation, or ask a model that reads more.",
    ),
    (
        exceptions.ModelNotFoundError,
        "There is no {model} where this server asks for it: {words}.",
        "Correct the model's name, or the address of its provider.",
    ),
    (
        exceptions.ModelTimeoutError,
        "{model} did not answer in time: {words}.",
        _LATER,
    ),
    (
        exceptions.ModelRequestTimeout,
        "{model} did not answer in time: {words}.",
        _LATER,
    ),
    (
        exceptions.ModelConnectionError,
        "The provider of {model} cannot be reached, or hung up: {words}.",
        "See whether it works and whether its address is right, then ask again.",
    ),
    (
        exceptions.ModelRequestRejectedError,
        "The provider of {model} refuses the request: {words}.",
        "Ask something else, or ask another model.",
    ),
    (
        exceptions.ModelAPIError,
        "The provider of {model} failed: {words}.",
        _LATER,
    ),
    (
        exceptions.IncompleteToolCall,
        "{model} used up the tokens it may use while it wrote a call.",
        "Allow it more, or ask for less at once.",
    ),
    (
        exceptions.ContentFilterError,
        "The provider of {model} holds its answer back: {words}.",
        "Ask in other words, or ask another model.",
    ),
    (
        exceptions.UnexpectedModelBehavior,
        "{model} answered what makes no sense: {words}.",
        "Ask again, or ask another model.",
    ),
    (
        exceptions.UserError,
        "{model} cannot be asked: {words}.",
        "Correct the settings of the chat.",
    ),
)
