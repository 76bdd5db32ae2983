"""What can be run: a name, a function, and an input that is checked before anything starts."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from json import JSONDecodeError
from types import UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    Optional,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, SchemaError

from tailrace.errors import BodyTooLarge, InputInvalid
from tailrace.protocol.access import RUN, Access
from tailrace.protocol.events import MAX_EVENT_BYTES, loads
from tailrace.runners.contract import Sink
from tailrace.runners.function import Kind, kind
from tailrace.runners.process import Address

Params = ParamSpec("Params")
Handle = TypeVar("Handle")

MAX_INPUT_BYTES: Final = MAX_EVENT_BYTES - 16 * 1024
"""Bound of an input's JSON: the `start` event repeats it, with some more."""

_MAX_STRAY: Final = 20
# To list more takes longer than to find them.
_MAX_LISTED: Final = 5000

Starter = Callable[..., Awaitable[Handle]]
"""Called with the operation, its input and, where the run is somebody's, their name."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What makes an operation more than a function.

    `title`: what a run is called, from its input. `guard`: looks at the checked input, in a
    thread, before anything of a run is kept; what it raises refuses the run. `resumes`: given a
    run's id, in a thread, whether this process can take it up where another one left it; None: not
    now, and it must not be ended either.
    `survives`: when this process leaves in good order, the runs are let go, not ended; it may
    depend on the run, whose id it is then called with. `ended`:
    given a run's id, in a thread, once the log has its end, clears away what is left of it.
    """

    title: Callable[[Mapping[str, Any]], str] | None = None
    guard: Callable[[Mapping[str, Any]], None] | None = None
    resumes: Callable[[str], bool | None] | None = None
    survives: bool | Callable[[str], bool] = False
    ended: Callable[[str], None] | None = None

    def lets_go(self, run: str) -> bool:
        """Whether a run survives this process."""
        return self.survives(run) if callable(self.survives) else self.survives


class Operation(Generic[Params, Handle]):
    """A function that can be run. Calling it calls the function; `start` makes a run.

    `timeout`, `abandon_after` and `grace` are seconds. `concurrency` is how many runs may
    execute at once in one process, where there is a limit; the others are queued. `address` is
    where a process of its own finds the function; None if it runs in this one. `detach`: an MCP
    call that breaks off leaves the run going, where it would cancel others. `parameters` is the
    JSON Schema of the input object, made from the function's type hints; where it is given, the
    function is called with the run and the input as it came, which only a guard can refuse.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        starter: Starter[Handle],
        *,
        name: str | None = None,
        timeout: float | None = None,
        abandon_after: float | None = None,
        grace: float | None = None,
        concurrency: int | None = None,
        process: bool = False,
        detach: bool = False,
        traits: Traits | None = None,
        description: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.function = function
        self.name: str = name or _name(function)
        if description is None:
            description = inspect.getdoc(_within(function)) or ""
        self.description = description
        self.kind: Kind = kind(function)
        self.timeout = timeout
        self.abandon_after = abandon_after
        self.grace = grace
        self.traits = traits or Traits()
        self.detach = detach
        self.concurrency = concurrency
        if concurrency is not None and concurrency < 1:
            raise ValueError(
                f"Operation {self.name} cannot have a concurrency of {concurrency}: "
                "give 1 or more, or leave it out for no limit."
            )
        self.address = Address.of(function) if process else None
        self._starter = starter
        self._signature = inspect.signature(function)
        self._is_as_given = parameters is not None
        if parameters is None:
            self._context, self._model = _input_model(self.name, function, self._signature)
            self.parameters = _schema(self.name, self._model)
        else:
            self._context, self._model = None, _ANYTHING
            self.parameters = dict(parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, without a run."""
        return self.function(*args, **kwargs)

    async def start(self, *args: Params.args, **kwargs: Params.kwargs) -> Handle:
        """Start a run with these arguments. It is `local`'s: see `by`. Raises InputInvalid."""
        return await self._starter(self, self._given(args, kwargs))

    def by(self, who: str | Access) -> Owned[Params, Handle]:
        """The same for somebody, a principal or what `runs.asker(request)` found:
        `await crunch.by(user).start(rows=5)`. The run is theirs.
        """
        return Owned(self._start_by, Access.of(who) if isinstance(who, str) else who)

    async def _start_by(
        self, principal: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Handle:
        return await self._starter(self, self._given(args, kwargs), principal)

    def _given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._is_as_given:
            if args:
                raise self._refusal([{"where": "input", "what": "It is given by name"}])
            return kwargs
        try:
            given = self._without_context().bind(*args, **kwargs).arguments
        except TypeError as error:
            raise self._refusal([{"where": "input", "what": str(error)}]) from None
        for parameter in self._signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                given |= given.pop(parameter.name, {})
        return given

    def check(self, given: Mapping[str, Any]) -> bytes:
        """The input as JSON, with defaults filled in. Raises InputInvalid, BodyTooLarge."""
        try:
            checked = self._validated(given)
            stored = checked.model_dump_json(by_alias=True).encode()
            # Others read it as well; a number that is none for them would cost them the run.
            loads(stored)
        except (PydanticSerializationError, JSONDecodeError) as error:
            raise InputInvalid(
                f"The input of {self.name} cannot be written as JSON: {str(error)[:200]}.",
                fix="Give plain values: numbers, text without lone surrogates, lists, objects.",
            ) from None
        self._compare(checked, stored)
        if len(stored) > MAX_INPUT_BYTES:
            raise BodyTooLarge(
                f"The input of {self.name} has {len(stored):,} bytes of JSON; "
                f"at most {MAX_INPUT_BYTES:,} can be kept.",
                fix="Give the name of a file, or a link, instead of the content.",
            )
        return stored

    def _compare(self, checked: BaseModel, stored: bytes) -> None:
        """What the function will get is read from the log. Secrets (which are stored masked),
        fields left out of the dump and the like would come to it changed, without a word.
        """
        try:
            again = self._model.model_validate_json(stored)
        except ValidationError as error:
            raise self._invalid(error) from None
        for name, field in self._model.model_fields.items():
            kept, given = getattr(again, name), getattr(checked, name)
            # Not a number is not even itself.
            if kept != given and not (kept != kept and given != given):  # noqa: PLR0124
                what = "Its value cannot be kept in the log unchanged"
                raise self._refusal([{"where": field.alias or name, "what": what}])

    def bind(self, stored: bytes, context: Sink) -> Callable[[], Any]:
        """The function with its checked input, ready to be called. Raises InputInvalid."""
        try:
            model = self._model.model_validate_json(stored)
        except ValidationError as error:
            raise self._invalid(error) from None
        if self._is_as_given:
            return lambda: self.function(context, loads(stored))
        fields = self._model.model_fields.items()
        given = {field.alias or name: getattr(model, name) for name, field in fields}
        given |= model.model_extra or {}
        if self._context is not None:
            given[self._context] = context
        positional = [
            given.pop(name)
            for name, parameter in self._signature.parameters.items()
            if parameter.kind is parameter.POSITIONAL_ONLY
        ]
        return lambda: self.function(*positional, **given)

    def _without_context(self) -> inspect.Signature:
        parameters = [p for n, p in self._signature.parameters.items() if n != self._context]
        return self._signature.replace(parameters=parameters)

    def _validated(self, given: Mapping[str, Any]) -> BaseModel:
        most = len(self._model.model_fields) + _MAX_STRAY
        if len(given) > most and self._model.model_config["extra"] == "forbid":
            # Of each there would be an error, and a body has room for 90,000 of them.
            raise self._refusal([{"where": "input", "what": f"It has more than {most} fields"}])
        try:
            return self._model.model_validate(dict(given))
        except ValidationError as error:
            raise self._invalid(error) from None

    def _invalid(self, error: ValidationError) -> InputInvalid:
        if (count := error.error_count()) > _MAX_LISTED:
            return self._refusal([{"where": "input", "what": f"{count:,} parts of it do not fit"}])
        found = [
            # The keys are the caller's: what is refused must not come back in full.
            {"where": ".".join(map(str, e["loc"]))[:40] or "input", "what": e["msg"][:200]}
            for e in error.errors(include_url=False, include_input=False, include_context=False)
        ][:20]
        return self._refusal(found)

    def _refusal(self, found: list[dict[str, str]]) -> InputInvalid:
        said = "; ".join(f"{e['where']}: {e['what']}" for e in found[:5])
        return InputInvalid(
            f"{self.name} does not take this input: {said}.",
            fix=f"GET /operations shows the schema of {self.name}.",
            errors=found,
        )


class Owned(Generic[Params, Handle]):
    """An operation whose runs are somebody's; see `Operation.by`."""

    def __init__(self, start: Callable[..., Awaitable[Handle]], who: Access) -> None:
        self._start = start
        self._who = who

    async def start(self, *args: Params.args, **kwargs: Params.kwargs) -> Handle:
        """Start a run that is theirs, with these arguments. Raises InputInvalid, and ScopeMissing
        where they may not start runs.
        """
        self._who.check(RUN)
        return await self._start(self._who.principal, args, kwargs)


def _within(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a `functools.partial` calls."""
    while isinstance(function, partial):
        function = function.func
    return function


def _name(function: Callable[..., Any]) -> str:
    inner = _within(function)
    return str(getattr(inner, "__name__", type(inner).__name__))


def _hints(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    target: Any = _within(function)
    if inspect.isclass(target):
        target = target.__init__
    elif not inspect.isroutine(target):
        target = type(target).__call__
    try:
        return get_type_hints(target, include_extras=True)
    except Exception as error:
        raise TypeError(
            f"The type hints of operation {name} cannot be resolved: {error}. "
            "Define the types at module level, and import them outside TYPE_CHECKING."
        ) from error


def _is_context(hint: Any) -> bool:
    """Whether it is a run's context, also `Annotated` or optional."""
    if inspect.isclass(hint):
        return issubclass(hint, Sink)
    parts = get_args(hint)
    if get_origin(hint) is Annotated:
        return _is_context(parts[0])
    is_union = get_origin(hint) in {Union, UnionType}
    return is_union and any(map(_is_context, parts))


def _field(parameter: inspect.Parameter, hint: Any) -> tuple[Any, Any]:
    default = parameter.default
    # Behind an alias, so that a parameter may be called `json` or `model_x`.
    if isinstance(default, FieldInfo):
        return Annotated[hint, default], Field(alias=parameter.name)
    if default is None:
        hint = Optional[hint]  # noqa: UP045 - a value, and not all of them know |
    return hint, Field(... if default is parameter.empty else default, alias=parameter.name)


def _input_model(
    name: str, function: Callable[..., Any], signature: inspect.Signature
) -> tuple[str | None, type[BaseModel]]:
    """The name of the parameter that takes the run, and the model of all others."""
    hints = _hints(name, function)
    context: str | None = None
    fields: dict[str, Any] = {}
    extra: Literal["forbid", "allow"] = "forbid"
    for parameter in signature.parameters.values():
        hint = hints.get(parameter.name, Any)
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
        elif parameter.kind is parameter.VAR_POSITIONAL:
            raise TypeError(f"Operation {name} may not take *{parameter.name}: input is by name.")
        elif not _is_context(hint):
            fields[f"in_{parameter.name}"] = _field(parameter, hint)
        elif context is None:
            context = parameter.name
        else:
            raise TypeError(f"Operation {name} takes its run twice: {context}, {parameter.name}.")
    config = ConfigDict(
        extra=extra,
        title=name,
        field_title_generator=lambda _, info: info.alias or "",
        # What is stored is read again: a default must pass as well, and JSON has no nan.
        validate_default=True,
        ser_json_inf_nan="strings",
    )
    try:
        return context, create_model(name, __config__=config, **fields)
    except (PydanticUserError, SchemaError) as error:
        raise _unusable(name, error) from error


# Of an operation whose schema was given: what JSON can say.
_ANYTHING: Final = create_model(
    "Anything", __config__=ConfigDict(extra="allow", ser_json_inf_nan="strings")
)


def _schema(name: str, model: type[BaseModel]) -> dict[str, Any]:
    try:
        return model.model_json_schema(by_alias=True)
    except PydanticUserError as error:
        raise _unusable(name, error) from error


def _unusable(name: str, error: Exception) -> TypeError:
    return TypeError(
        f"The input of operation {name} has no schema: {getattr(error, 'message', error)}. "
        "Use types that JSON can say: numbers, str, list, dict, dataclasses, pydantic models."
    )
