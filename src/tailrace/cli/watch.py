"""`tailrace watch` and `tailrace replay`: a run at a server, followed through any cuts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import click

from tailrace.cli.remote import Target, complete_run, key, target, url_option

if TYPE_CHECKING:
    from tailrace.cli.screen import Screen
    from tailrace.client import Client, WatchedEvent

_SHOWING = (
    click.option("--json", "as_json", is_flag=True, help="The exact events on stdout, as NDJSON."),
    click.option("-q", "--quiet", is_flag=True, help="Nothing but the program's own output."),
    click.option(
        "--raw",
        is_flag=True,
        help="The output's exact bytes, with escapes that may play tricks on a terminal.",
    ),
)


def _showing(function: Any) -> Any:
    for option in reversed(_SHOWING):
        function = option(function)
    return function


@click.command()
@url_option
@click.option("--from", "after", metavar="ID", help="Only what follows this event; or `latest`.")
@click.option("--no-follow", is_flag=True, help="Stop at what there is now.")
@click.option("--types", metavar="A,B", help="Only events of these types (and the last one).")
@_showing
@click.argument("run", metavar="RUN|URL", shell_complete=complete_run)
def watch(run: str, url: str | None, **options: Any) -> int:
    """Watch a run: what was so far, then live, up to its end.

    Output goes to stdout and stderr, other events to stderr. Colours pass, every other
    terminal escape is taken out. Cuts are survived. Ctrl-C leaves; the run goes on. The exit
    code is the run's.
    """
    with _watching(target(run, url), url, options) as watching:
        return watching.whole(
            after=options["after"], types=options["types"], follows=not options["no_follow"]
        )


@click.command()
@url_option
@click.option(
    "--speed",
    type=click.FloatRange(0.01, 1000),
    default=1.0,
    show_default=True,
    help="How many times as fast.",
)
@_showing
@click.argument("run", metavar="RUN|URL", shell_complete=complete_run)
def replay(run: str, url: str | None, speed: float, **options: Any) -> int:
    """Show a finished run again, with its own timing. The exit code is the run's."""
    from tailrace.errors import RunActive
    from tailrace.protocol.lifecycle import ACTIVE

    with _watching(target(run, url), url, options) as watching:
        snapshot = watching.look()
        if snapshot["state"] in ACTIVE:
            raise RunActive(
                f"{snapshot['id']} is {snapshot['state']}; only a finished run can be replayed.",
                fix=f"`tailrace watch {snapshot['id']}` shows it live.",
            )
        return watching.whole(speed=speed)


def attached(
    base: str, snapshot: Mapping[str, Any], *, url: str | None, as_json: bool, quiet: bool
) -> int:
    """Follow a run that was just started; the exit code. Ctrl-C cancels it, and a second
    time leaves it.
    """
    run = snapshot["id"]
    options = {"as_json": as_json, "quiet": quiet, "raw": True}
    with _watching(Target(base, run, run), url, options) as watching:
        return watching.started()


@contextlib.contextmanager
def _watching(
    where: Target, url: str | None, options: Mapping[str, Any]
) -> Generator[Watching, None, None]:
    from tailrace.cli.screen import Screen
    from tailrace.client import Client

    screen = Screen(quiet=options["quiet"])
    cuts = _Cuts(screen)
    with Client(where.base, token=key(where.base), sleep=cuts.pause) as client:
        watching = Watching(client, where, screen, cuts, url=url, options=options)
        try:
            yield watching
        finally:
            watching.close()


class _Cuts:
    """Says that the connection was cut: once, until there is something new."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.is_cut = False

    def pause(self, seconds: float) -> None:
        """The client's pause before it tries again."""
        if not self.is_cut:
            self.is_cut = True
            self._screen.note("The connection was cut; trying to get back. Nothing is missed.")
        time.sleep(seconds)


class Watching:
    """One run, followed by one terminal. `options` has as_json, quiet and raw."""

    def __init__(
        self,
        client: Client,
        where: Target,
        screen: Screen,
        cuts: _Cuts,
        *,
        url: str | None,
        options: Mapping[str, Any],
    ) -> None:
        from tailrace.cli.screen import Telling

        self._client = client
        self._where = where
        self._screen = screen
        self._cuts = cuts
        self._url = url
        self._as_json: bool = options["as_json"]
        self._telling = Telling(screen, quiet=options["quiet"], exact=options["raw"])
        self._snapshot: Mapping[str, Any] = {}
        self._last = ""

    def close(self) -> None:
        """Leave the terminal as it was."""
        with contextlib.suppress(OSError):
            self._telling.close()

    def look(self) -> Mapping[str, Any]:
        """The run's snapshot. Raises RunUnknown, ServerUnreachable."""
        self._snapshot = self._client.run(self._where.run)
        return self._snapshot

    def whole(
        self,
        *,
        after: str | None = None,
        types: str | None = None,
        follows: bool = True,
        speed: float | None = None,
    ) -> int:
        """Follow the run to its end, or to what there is now; the exit code."""
        if not self._snapshot:
            self.look()
        address = self._where.address
        if speed is not None:
            address = f"{self._where.base}/runs/{self._where.run}/events?speed={speed:g}"
        try:
            if follows:
                end = self._follow(address, after, types)
            else:
                end = self._up_to_now(address, after, types)
        except KeyboardInterrupt:
            self._leave()
            return 130
        return self._ended(end)

    def started(self) -> int:
        """Follow a run from its start; Ctrl-C cancels it."""
        self.look()
        if self._screen.draws:
            self._screen.note(self._where.run)
        try:
            end = self._follow(self._where.run, None, None)
        except KeyboardInterrupt:
            try:
                self._client.cancel(self._where.run)
                self._screen.note("Stopping it; Ctrl-C again leaves it.")
                end = self._follow(self._where.run, self._last or None, None)
            except KeyboardInterrupt:
                self._leave()
                return 130
        return self._ended(end)

    # --- following -------------------------------------------------------------------

    def _follow(self, address: str, after: str | None, types: str | None) -> WatchedEvent | None:
        """Show events up to the terminal one, which is the answer; None if it was known."""
        stream = self._client.watch(address, after=after or 0, types=types)
        with contextlib.closing(stream), self._screen.status(self._status):
            for event in stream:
                self._show(event)
                if event.terminal:
                    return event
        return None

    def _up_to_now(self, address: str, after: str | None, types: str | None) -> WatchedEvent | None:
        from tailrace.protocol.cursor import LATEST, parse

        newest = parse(self._snapshot["last_event_id"]).seq
        if after == LATEST or newest <= (parse(after).seq if after else 0):
            return None
        # Everything is asked for, or the newest event might be one that is not sent.
        chosen = None if types is None else {"gap", "reset", *types.split(",")}
        with contextlib.closing(self._client.watch(address, after=after or 0)) as stream:
            for event in stream:
                if chosen is None or event.terminal or event.type in chosen:
                    self._show(event)
                if event.terminal:
                    return event
                if event.id and parse(event.id).seq >= newest:
                    break
        return None

    def _show(self, event: WatchedEvent) -> None:
        self._cuts.is_cut = False
        self._last = event.id or self._last
        if event.type == "start" and not self._snapshot["started_at"]:
            # It was queued when we looked.
            self._snapshot = {**self._snapshot, "started_at": event.data.get("timestamp")}
        if not self._as_json:
            self._telling.event(event.type, event.data)
            return
        lead = f'"id":"{event.id}",' if event.id else ""
        told = f'{{{lead}"type":"{event.type}","data":{event.raw}}}\n'
        self._screen.write("stdout", told.encode())

    def _status(self, columns: int) -> str:
        from tailrace.cli import render
        from tailrace.protocol.events import seconds

        began = seconds(self._snapshot["started_at"] or self._snapshot["created_at"])
        elapsed = 0.0 if began is None else time.time() - began
        told = {"message": "reconnecting"} if self._cuts.is_cut else self._telling.progress
        operation = self._snapshot["operation"]
        return render.status(self._screen.look, operation, elapsed, told, columns)

    # --- leaving ---------------------------------------------------------------------

    def _leave(self) -> None:
        where = f" --url {self._url}" if self._url else ""
        since = f" --from {self._last}" if self._last else ""
        run = self._where.run
        self._telling.close()
        self._screen.note(f"Left; {run} goes on. To return: tailrace watch{where}{since} {run}")

    def _ended(self, end: WatchedEvent | None) -> int:
        from tailrace.cli import render
        from tailrace.protocol.cursor import parse
        from tailrace.protocol.events import CANCELLED, COMPLETE
        from tailrace.protocol.lifecycle import ACTIVE, State

        error: Mapping[str, Any] | None
        if end is None:
            snapshot = self.look()
            state, error, result = str(snapshot["state"]), snapshot["error"], snapshot["result"]
            took, last = snapshot["duration_seconds"], snapshot["last_event_id"]
        else:
            known = {COMPLETE: State.COMPLETED, CANCELLED: State.CANCELLED}
            state = str(known.get(end.type) or end.data.get("reason", State.FAILED))
            error, took, last = end.data, end.data.get("duration_seconds"), end.id
            result = end.data.get("result")
        if state in ACTIVE:
            return 0
        self._telling.close()
        self._screen.note(
            render.ending(
                self._screen.look,
                self._where.run,
                state,
                took,
                events=parse(last).seq,
                address=self._where.link,
                said=str((error or {}).get("error", "")),
                result=result,
            )
        )
        return render.exit_code(state, error)
