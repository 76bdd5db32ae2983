"""Operations that come with Tailrace: programs, at a server and in a terminal."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, Strict

from tailrace.errors import LogClosed, LogError, RunUnknown, SettingsInvalid
from tailrace.eventlog.contract import EventLog
from tailrace.operations import Operation, Traits
from tailrace.protocol.events import OUTPUT, Event
from tailrace.protocol.masking import Masks, is_maskable
from tailrace.registry import Operations
from tailrace.run import RunContext
from tailrace.runners.profiles import PROGRAM, Profile, Profiles
from tailrace.runners.profiles import read as profile_tables
from tailrace.runners.script import Limits, Located, Program, environment, execute, locate
from tailrace.runners.spools import Spools
from tailrace.runners.sweep import MARK
from tailrace.runners.transcript import Told

SCRIPT: Final = "script"
COMMAND: Final = "command"

Work = Callable[..., Awaitable[dict[str, Any]]]
Streams = Literal["separate", "merge"]

_STRIDE: Final = 256
_RETRY_SECONDS: Final = 0.5

# What a variable of the environment is called that has a secret: a word of its name says so.
_SECRETIVE: Final = re.compile(
    r"(?:^|[_.-])(?:[A-Z0-9]*(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD)|CREDENTIALS?)S?(?:$|[_.-])",
    re.ASCII | re.IGNORECASE,
)

logger = logging.getLogger("tailrace.builtin")


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("a program's argument cannot have a NUL in it")
    return text


# A number is what it looks like in JSON. What the kernel takes as one argument is 128 KiB.
Argument = (
    Annotated[str, Field(max_length=131_071), AfterValidator(_without_nul)]
    | Annotated[int, Strict()]
    | Annotated[float, Strict()]
)
# A request has room for 300,000 that are wrong: they are looked through up to the first.
Arguments = Annotated[list[Argument], Field(fail_fast=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripts:
    """Programs, and what they may do.

    `log`: has what was told of them. `spools`: has what they write. `roots`: the folders
    their files must be below. `profiles`: how they are run. `survives`: they go on when this
    process ends, and the next one takes them up. `masks`: what they must not show; what their
    profiles' `env` has under a name like API_TOKEN is masked as well.
    """

    log: EventLog
    spools: Spools
    roots: Sequence[Path]
    profiles: Profiles = field(default_factory=Profiles)
    limits: Limits = field(default_factory=Limits)
    survives: bool = False
    masks: Masks = field(default_factory=Masks)

    @property
    def operation(self) -> Work:
        """The operation `script`: a file below one of the roots, in its own folder."""

        async def script(
            run: RunContext,
            file: Annotated[str, AfterValidator(_without_nul)],
            args: Arguments | None = None,
            profile: str | None = None,
            stderr: Streams = "separate",
        ) -> dict[str, Any]:
            """Run a script below one of the server's allowed folders and tell its output.

            `profile` names how it is run, instead of its file's ending. With `stderr` "merge",
            stderr goes where stdout goes, so that their order is exact.
            """
            given = {"file": file, "args": args, "profile": profile, "stderr": stderr}
            is_known = self.spools.has(run.id)
            program = self._program(run.id, given, is_known=is_known)
            so_far = partial(told, self.log, run.id) if is_known else None
            return await execute(run, program, self.spools.folder(run.id), so_far)

        return script

    def _program(self, run: str, given: Mapping[str, Any], *, is_known: bool) -> Program:
        file = str(given["file"])
        # What was started once need not be there any more, nor what it was started with.
        located = Located(Path(file), []) if is_known else locate(file, self.roots)
        profile = self.profiles.of(located.path, is_known=is_known)
        named = given["profile"]
        if named and not (is_known and named not in self.profiles):
            profile = self.profiles[named]
        env = environment(run, profile.env)
        args = [str(argument) for argument in given["args"] or ()]
        return Program(
            # By its name in the folder it runs in: that folder cannot be exchanged any more.
            argv=profile.argv(f"./{located.path.name}", args, env.get("PATH")),
            env=env,
            profile=profile,
            beneath=located.beneath,
            tail=profile.tail(file),
            merge=given["stderr"] == "merge",
            limits=self.limits,
            survives=self.survives,
            masks=self._masks(run, profile, is_known=is_known),
        )

    def _masks(self, run: str, profile: Profile, *, is_known: bool) -> Masks:
        masks = self.masks.also(secretive(profile.env))
        if not is_known:
            return masks
        # Exactly those it was begun with: what is told next begins where that was held back.
        marks = self.spools.marks(run)
        chosen = masks.of(run, marks)
        if len(chosen.marks(run)) < len(marks):
            logger.warning(
                "%s was started with secrets that are not known here any more: "
                "if it still writes them, they are not masked",
                run,
            )
        return chosen

    # --- traits ------------------------------------------------------------------------

    @property
    def traits(self) -> Traits:
        """What makes `script` more than a function."""
        return Traits(
            title=self.title,
            guard=self.guard,
            resumes=self.spools.has,
            survives=self.lets_go,
            ended=self.spools.clear,
        )

    @staticmethod
    def title(given: Mapping[str, Any]) -> str:
        """What a run is called: the file's name."""
        return Path(str(given["file"])).name

    def guard(self, given: Mapping[str, Any]) -> None:
        """Refuse what could not be run. Raises PathForbidden, InputInvalid."""
        self._program("", given, is_known=False)

    def lets_go(self, run: str) -> bool:
        """Whether a run goes on without this process. What another one has started is as that
        one wished.
        """
        return self.spools.survives(run) if self.spools.has(run) else self.survives


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """The operations of whoever sits at a terminal: in their folder, with their environment and
    their rights. `plain`: nobody draws what a program writes; `size`: of their terminal. `masks`:
    what programs must not show.
    """

    spools: Spools
    cwd: Path
    profiles: Profiles = field(default_factory=Profiles)
    plain: bool = True
    size: tuple[int, int] = (24, 80)
    masks: Masks = field(default_factory=Masks)

    async def script(self, run: RunContext, file: str, args: list[str]) -> dict[str, Any]:
        """Run a script and tell its output."""
        path = self.cwd / file
        profile = self.profiles.anyhow(path)
        return await self._run(run, profile, profile.argv(str(path), args), profile.tail(file))

    async def command(self, run: RunContext, argv: list[str]) -> dict[str, Any]:
        """Run a program and tell its output."""
        return await self._run(run, self.profiles[PROGRAM], argv)

    async def _run(
        self, run: RunContext, profile: Profile, argv: Sequence[str], tail: str | None = None
    ) -> dict[str, Any]:
        env = environment(run.id, profile.env, inherit=True, plain=self.plain)
        program = Program(
            argv=argv,
            env=env,
            profile=profile,
            cwd=self.cwd,
            tail=tail,
            size=self.size,
            masks=self.masks,
        )
        return await execute(run, program, self.spools.folder(run.id))


def scripts(
    log: EventLog,
    spools: Spools,
    roots: Sequence[Path | str],
    *,
    survives: bool = False,
    profiles: Profiles | Mapping[str, Any] | None = None,
    masks: Masks | None = None,
    **limits: int | None,
) -> Scripts:
    """`Scripts`, checked. See `Engine.allow_scripts`."""
    folders = [Path(root).resolve() for root in roots]
    for folder in folders:
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is not a folder scripts could be in.")
    if survives and log.folder is None:
        raise SettingsInvalid(
            "Scripts cannot survive this process: its log does not.",
            fix="Keep the log in a file, or leave out survives.",
        )
    if not isinstance(profiles, Profiles):
        profiles = profile_tables(profiles or {})
    masks = masks or Masks()
    for profile in profiles:
        # Said now: later it would be a run that is refused.
        masks.also(secretive(profile.env))
    return Scripts(
        log=log,
        spools=spools,
        roots=folders,
        profiles=profiles,
        limits=Limits(**limits),
        survives=survives,
        masks=masks,
    )


def secretive(env: Mapping[str, str]) -> list[str]:
    """The values of an environment that are secrets, by their names, like DB_PASSWORD."""
    named = (value for name, value in env.items() if _SECRETIVE.search(name))
    return [value for value in named if is_maskable(value)]


def spools(log: EventLog) -> Spools:
    """Where programs of a log's runs write: beside it, or where they go with the process."""
    return Spools.temporary(log) if log.folder is None else Spools(log.folder)


def inherit(log: EventLog, operations: Operations, masks: Masks | None = None) -> None:
    """Have every process that opens a log go on with the programs that others left there, where
    they have ended: what they wrote, and how they ended, is in their spools. What still goes
    on is for a server that runs scripts; so is what may have secrets that `masks` does not know.
    """
    if log.folder is None:
        return
    spools, profiles, known = Spools(log.folder), Profiles(), masks or Masks()

    def resumes(run: str) -> bool | None:
        if spools.goes_on(run) or not spools.marks(run) <= known.marks(run):
            return None
        return spools.has(run)

    async def left(run: RunContext, **given: Any) -> dict[str, Any]:
        """Go on with a program that another process started."""
        file = Path(str(given.get("file", "")))
        profile = profiles.of(file, is_known=True) if "file" in given else profiles[PROGRAM]
        argv = given.get("argv") or [str(file)]
        chosen = known.of(run.id, spools.marks(run.id))
        program = Program(argv=argv, env={MARK: run.id}, profile=profile, masks=chosen)
        return await execute(run, program, spools.folder(run.id), partial(told, log, run.id))

    # This process may be a short one: what it has not told by then is for the next.
    traits = Traits(resumes=resumes, survives=True, ended=spools.clear)
    for name in (SCRIPT, COMMAND):
        operations.leave(Operation(left, _never, name=name, traits=traits))


async def _never(*_: object) -> None:
    raise NotImplementedError


async def tidy(log: EventLog) -> None:
    """Clear away the spools of runs that have ended, or were forgotten: those of processes that
    were killed before they could. Raises LogError.
    """
    if log.folder is None:
        return
    spools = Spools(log.folder)
    for run in await asyncio.to_thread(list, spools):
        record = await log.get(run)
        if record is None or record.ended:
            await asyncio.to_thread(spools.clear, run)


async def told(log: EventLog, run: str) -> Told:
    """How much of a program's output the log has. A log that cannot be read is waited for.
    Raises LogClosed, RunUnknown.
    """
    while True:
        try:
            return await _told(log, run)
        except LogClosed:
            raise
        except LogError as error:
            logger.error("%s cannot be taken up yet: %s %s", run, error, error.fix)  # noqa: TRY400
            await asyncio.sleep(_RETRY_SECONDS)


async def _told(log: EventLog, run: str) -> Told:
    record = await log.get(run)
    if record is None:
        raise RunUnknown(f"There is no run {run}.", fix="It may have been forgotten.")
    cut: set[str] = set()
    end = record.last_seq
    while end >= record.first_seq:
        after = max(end - _STRIDE, record.first_seq - 1)
        for event in reversed(await _events(log, run, after, end)):
            payload = event.payload if event.type == OUTPUT else {}
            # Without an offset it is not from the spool (`RunContext.output`).
            if payload.get("cut"):
                cut.add(str(payload["stream"]))
            elif isinstance(payload.get("offset"), int):
                return Told(payload["offset"], frozenset(cut))
        end = after
    return Told(0, frozenset(cut))


async def _events(log: EventLog, run: str, after: int, end: int) -> list[Event]:
    """The events `after` + 1 to `end`."""
    found: list[Event] = []
    while after < end:
        blocks = await log.read(run, after)
        if not blocks:
            break
        found += (event for block in blocks for event in block.events if after < event.seq <= end)
        after = blocks[-1].last
    return found
