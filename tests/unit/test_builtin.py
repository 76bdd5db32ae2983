from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailrace import builtin
from tailrace.builtin import Terminal
from tailrace.engine import Engine
from tailrace.errors import InputInvalid, PathForbidden, RunFailed, SettingsInvalid
from tailrace.eventlog.contract import Append, EventLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.outcome import Outcome, settle
from tailrace.protocol.events import Draft, Event, draft, loads
from tailrace.protocol.lifecycle import Signal, State
from tailrace.protocol.output import raw
from tailrace.protocol.runs import RunQuery
from tailrace.runners.spools import is_alive
from tailrace.runners.transcript import Told
from tailrace.testing.logbook import new_run, using
from tests.processes import marked
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with Engine("memory:", grace=0.1) as engine:
        engine.allow_scripts(tmp_path)
        terminal = Terminal(spools=engine.spools, cwd=tmp_path)
        engine.offer(terminal.command, name="command")
        yield engine


async def told(engine: Engine, operation: str, **given: object) -> list[Event]:
    record, _ = await engine.submit(operation, given)
    return await soon(collected(engine, record.id))


async def collected(engine: Engine, run: str) -> list[Event]:
    return [event async for event in engine.run(run).events()]


def written(events: list[Event]) -> bytes:
    told = (event.payload for event in events if event.type == "output")
    # A shell may have its own words, on stderr, for what becomes of its children.
    return b"".join(raw(payload) for payload in told if payload["stream"] == "stdout")


async def test_a_script_runs_in_its_own_folder(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "where.sh").write_text('pwd; echo "$@"; echo "$TAILRACE_RUN"')
    events = await told(engine, "script", file="sub/where.sh", args=["a b", "c"])
    run = events[0].payload["run"]
    assert written(events).decode() == f"{(tmp_path / 'sub').resolve()}\na b c\n{run}\n"
    assert events[-1].payload["result"] == {"exit_code": 0}


async def test_a_script_that_fails_says_its_code(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "fails.sh").write_text("echo before; exit 7")
    events = await told(engine, "script", file="fails.sh")
    assert written(events) == b"before\n"
    last = events[-1].payload
    assert (last["type"], last["exit_code"], last["reason"]) == ("ScriptFailed", 7, "failed")
    record = await engine.record(events[0].payload["run"])
    assert loads(record.error)["exit_code"] == 7
    with pytest.raises(RunFailed, match="exited with code 7"):
        await engine.run(record.id).result()


@pytest.mark.parametrize("file", ["../escape.sh", "missing.sh", "/etc/passwd"])
async def test_no_script_outside(engine: Engine, tmp_path: Path, file: str) -> None:
    (tmp_path.parent / "escape.sh").write_text("echo out")
    with pytest.raises(PathForbidden) as refused:
        await told(engine, "script", file=file)
    assert str(refused.value) == f"{file!r} is not a file below an allowed folder."
    assert await engine.find(RunQuery()) == []


async def test_what_a_script_is_asked_with(engine: Engine) -> None:
    script = engine.operations.get("script")
    assert script.description.startswith("Run a script below one of")
    schema = script.parameters
    assert list(schema["properties"]) == ["file", "args", "profile", "stderr"]
    assert schema["required"] == ["file"]


async def test_a_command_is_the_caller_s_own(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_OWN", "yes")
    events = await told(engine, "command", argv=["/bin/sh", "-c", 'echo "$MY_OWN"; pwd'])
    assert written(events).decode() == f"yes\n{tmp_path}\n"


async def test_a_command_that_is_not_there(engine: Engine) -> None:
    events = await told(engine, "command", argv=["/no/such/program"])
    assert (events[-1].payload["exit_code"], events[-1].payload["type"]) == (127, "ScriptFailed")


async def test_a_cancelled_script(engine: Engine, tmp_path: Path) -> None:
    code = "trap 'echo bye; exit' TERM; echo on; while :; do sleep .01; done"
    (tmp_path / "long.sh").write_text(code)
    record, _ = await engine.submit("script", {"file": "long.sh"})
    events: list[Event] = []

    async def watch() -> None:
        async for event in engine.run(record.id).events():
            events.append(event)
            if event.type == "output" and event.payload["text"] == "on\n":
                await engine.cancel(record.id)

    await soon(watch())
    assert written(events) == b"on\nbye\n"
    assert (await engine.record(record.id)).state is State.CANCELLED


async def test_a_script_that_ignores_it(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "deaf.sh").write_text("trap '' TERM; echo on; while :; do sleep .01; done")
    record, _ = await engine.submit("script", {"file": "deaf.sh"}, timeout=0.3)
    events = await soon(collected(engine, record.id))
    assert (events[-1].payload["reason"], events[-1].payload["forced"]) == ("timed_out", True)


async def test_numbers_among_the_arguments(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "args.sh").write_text('printf "<%s>" "$@"')
    events = await told(engine, "script", file="args.sh", args=["-x", 3, 0.5, "a b"])
    assert written(events) == b"<-x><3><0.5><a b>"


@pytest.mark.parametrize(
    "given",
    [
        {"file": "a\0b"},
        {"file": "fine.sh", "args": ["a\0b"]},
        {"file": "fine.sh", "args": ["x" * 131_072]},
        {"file": "fine.sh", "args": "x"},
        {"file": "fine.sh", "profile": "cobol"},
        {"file": "fine.sh", "stderr": "gone"},
        {"file": "fine.sh", "more": 1},
    ],
    ids=str,
)
async def test_input_that_is_refused(
    engine: Engine, tmp_path: Path, given: dict[str, object]
) -> None:
    (tmp_path / "fine.sh").touch()
    with pytest.raises(InputInvalid):
        await told(engine, "script", **given)
    assert await engine.find(RunQuery()) == []


async def test_wrong_arguments_are_looked_through_up_to_the_first(engine: Engine) -> None:
    with pytest.raises(InputInvalid) as refused:
        await told(engine, "script", file="fine.sh", args=[None] * 1000)
    assert len(refused.value.details["errors"]) <= 3, "one for each kind of argument"


async def test_another_profile_and_one_stream(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("echo out; echo err >&2; echo out")
    events = await told(engine, "script", file="code.py", profile="shell", stderr="merge")
    assert written(events) == b"out\nerr\nout\n"


async def test_nothing_is_left_of_a_run(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "fine.sh").write_text("echo out")
    await told(engine, "script", file="fine.sh")
    await until(lambda: list(engine.spools) == [])


async def test_no_profile_makes_a_script_of_any_file(engine: Engine, tmp_path: Path) -> None:
    """Its errors would tell what is in it."""
    (tmp_path / "secrets.txt").write_text("TOKEN: hunter2")
    with pytest.raises(PathForbidden):
        await told(engine, "script", file="secrets.txt", profile="shell")


# --- who goes on -----------------------------------------------------------------------

GO = "while ! [ -e go ]; do sleep .01; done"
COUNTS = f"echo one; {GO}; echo two; printf 'h\\303'; sleep 0.05; printf '\\251'; exit 7"


def house(tmp_path: Path, *, scripts: bool = True) -> Engine:
    engine = Engine(tmp_path / "log.db", grace=0.1)
    if scripts:
        (tmp_path / "scripts").mkdir(exist_ok=True)
        engine.allow_scripts(tmp_path / "scripts", survives=True)
    return engine


async def left_behind(tmp_path: Path) -> str:
    """A run whose process has gone, while its program goes on."""
    async with house(tmp_path) as engine:
        (tmp_path / "scripts" / "counts.sh").write_text(COUNTS)
        record, _ = await engine.submit("script", {"file": "counts.sh"})
        async for event in engine.run(record.id).events():
            if event.type == "output":
                break
    return record.id


async def ended(engine: Engine, run: str) -> list[Event]:
    events = await soon(collected(engine, run))
    assert events[-1].payload["exit_code"] == 7
    assert [event.type for event in events].count("start") == 1
    assert written(events) == "one\ntwo\nhé".encode()
    return events


async def test_the_next_process_goes_on(tmp_path: Path) -> None:
    run = await left_behind(tmp_path)
    async with house(tmp_path) as engine:
        (tmp_path / "scripts" / "go").touch()
        events = await ended(engine, run)
        assert (await engine.record(run)).attempt == 2
    assert events[2].payload["status"] == "running"
    assert list((tmp_path / "log.db.spools").iterdir()) == []


async def test_who_runs_no_scripts_leaves_alone_what_goes_on(tmp_path: Path) -> None:
    run = await left_behind(tmp_path)
    async with house(tmp_path, scripts=False) as engine:
        assert (await engine.record(run)).state is State.RUNNING
        assert (await engine.record(run)).attempt == 1
    async with house(tmp_path) as engine:
        (tmp_path / "scripts" / "go").touch()
        await ended(engine, run)


async def test_who_runs_no_scripts_tells_how_one_has_ended(tmp_path: Path) -> None:
    run = await left_behind(tmp_path)
    (tmp_path / "scripts" / "go").touch()
    await until(lambda: not is_alive(tmp_path / "log.db.spools" / run))
    async with house(tmp_path, scripts=False) as engine:
        await ended(engine, run)
    assert list((tmp_path / "log.db.spools").iterdir()) == []


async def test_what_is_gone_with_its_spool_is_lost(tmp_path: Path) -> None:
    run = await left_behind(tmp_path)
    (tmp_path / "scripts" / "go").touch()
    spool = tmp_path / "log.db.spools" / run
    await until(lambda: not is_alive(spool))
    (spool / "frames").unlink()
    async with house(tmp_path) as engine:
        events = await soon(collected(engine, run))
    assert events[-1].payload["reason"] == "lost"


async def test_spools_that_nobody_needs_are_cleared_away(tmp_path: Path) -> None:
    async with house(tmp_path) as engine:
        (tmp_path / "scripts" / "fine.sh").touch()
        record, _ = await engine.submit("script", {"file": "fine.sh"})
        await engine.run(record.id).wait()
    spools = tmp_path / "log.db.spools"
    for name in (record.id, "run_aaaaaaaaaaaaaaaaaaaaaaaaaa", "anything"):
        (spools / name).mkdir(parents=True)
    async with house(tmp_path):
        assert list(spools.iterdir()) == []


DEAF = "trap '' TERM; echo on; while :; do sleep .01; done"


async def wished_away(tmp_path: Path, text: str, timeout: float | None = None) -> str:
    """A run whose process has gone, with something still to be done about it."""
    async with house(tmp_path) as engine:
        (tmp_path / "scripts" / "it.sh").write_text(text)
        record, _ = await engine.submit("script", {"file": "it.sh"}, timeout=timeout)
        async for event in engine.run(record.id).events():
            if event.type == "output":
                break
    return record.id


async def test_out_of_time_when_it_is_taken_up_again(tmp_path: Path) -> None:
    run = await wished_away(tmp_path, DEAF, timeout=0.3)
    async with using(SqliteLog(tmp_path / "log.db")) as log:
        record = await log.get(run)
        assert record is not None
        await until(lambda: time.time() - (record.started_at or 0) > 0.4)
    async with house(tmp_path) as engine:
        events = await soon(collected(engine, run))
    assert events[-1].payload["reason"] == "timed_out"
    await until(lambda: marked(run) == [])
    assert list((tmp_path / "log.db.spools").iterdir()) == []


async def test_cancelled_when_it_is_taken_up_again(tmp_path: Path) -> None:
    run = await wished_away(tmp_path, "trap 'echo bye; exit' TERM; echo on; " + GO)
    async with using(SqliteLog(tmp_path / "log.db")) as log:
        record = await log.get(run)
        assert record is not None
        await settle(log, record, Outcome(Signal.CANCEL))
    async with house(tmp_path) as engine:
        events = await soon(collected(engine, run))
    assert events[-1].type == "cancelled"
    assert written(events) == b"on\nbye\n"
    await until(lambda: marked(run) == [])


async def test_started_with_a_profile_that_is_gone(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "log.db", grace=0.1)
    (tmp_path / "scripts").mkdir()
    mine = {"mine": {"extensions": [".mine"], "command": ["sh", "{file}"]}}
    engine.allow_scripts(tmp_path / "scripts", survives=True, profiles=mine)
    async with engine:
        (tmp_path / "scripts" / "it.mine").write_text(COUNTS)
        record, _ = await engine.submit("script", {"file": "it.mine", "profile": "mine"})
        async for event in engine.run(record.id).events():
            if event.type == "output":
                break
    async with house(tmp_path) as engine:
        (tmp_path / "scripts" / "go").touch()
        await ended(engine, record.id)


async def test_it_survives_whoever_takes_it_up(tmp_path: Path) -> None:
    """Also one whose own scripts do not."""
    run = await left_behind(tmp_path)
    other = Engine(tmp_path / "log.db", grace=0.1)
    other.allow_scripts(tmp_path / "scripts")
    async with other:
        assert (await other.record(run)).attempt == 2
    async with house(tmp_path) as engine:
        (tmp_path / "scripts" / "go").touch()
        await ended(engine, run)
        assert (await engine.record(run)).attempt == 3


async def test_who_has_no_time_to_tell_it_all_leaves_it_to_the_next(tmp_path: Path) -> None:
    lines = "import os\nfor n in range(60_000): os.write(1, b'%059d\\n' % n)\nraise SystemExit(7)"
    async with house(tmp_path) as engine:
        (tmp_path / "scripts" / "lines.py").write_text(f"print('on')\n{lines}")
        record, _ = await engine.submit("script", {"file": "lines.py"})
        async for event in engine.run(record.id).events():
            if event.type == "output":
                break
    await until(lambda: not is_alive(tmp_path / "log.db.spools" / record.id), within=30)
    async with house(tmp_path, scripts=False):
        pass
    async with house(tmp_path) as engine:
        events = await soon(collected(engine, record.id))
    assert events[-1].payload["exit_code"] == 7
    assert written(events) == b"on\n" + b"".join(b"%059d\n" % n for n in range(60_000))


# --- secrets ---------------------------------------------------------------------------

SECRET = "hunter2-hunter2"
SLOWLY = (
    f"printf 'a hunter2-'; {GO}; echo 'hunter2 b'; printf '::result \"hunter2-'; echo 'hunter2\"'"
)


def guarded(tmp_path: Path, secrets: list[str], *, scripts: bool = True) -> Engine:
    engine = Engine(tmp_path / "log.db", grace=0.1, secrets=secrets)
    if scripts:
        (tmp_path / "scripts").mkdir(exist_ok=True)
        engine.allow_scripts(tmp_path / "scripts", survives=True)
    return engine


async def half_told(tmp_path: Path) -> str:
    """A run whose process has gone in the middle of a secret."""
    async with guarded(tmp_path, [SECRET]) as engine:
        (tmp_path / "scripts" / "it.sh").write_text(SLOWLY)
        record, _ = await engine.submit("script", {"file": "it.sh"})
        async for event in engine.run(record.id).events():
            if event.type == "output":
                break
    return record.id


async def test_a_secret_over_the_border_of_two_processes(tmp_path: Path) -> None:
    run = await half_told(tmp_path)
    async with guarded(tmp_path, [SECRET, "another-secret"]) as engine:
        (tmp_path / "scripts" / "go").touch()
        events = await soon(collected(engine, run))
        assert written(events) == b'a *** b\n::result "***"\n'
        assert loads((await engine.record(run)).result)["result"] == "***"
    assert SECRET.encode() not in (tmp_path / "log.db").read_bytes()


async def test_who_does_not_know_the_secrets_leaves_it_to_others(tmp_path: Path) -> None:
    run = await half_told(tmp_path)
    (tmp_path / "scripts" / "go").touch()
    await until(lambda: not is_alive(tmp_path / "log.db.spools" / run))
    for secrets in ([], ["another-secret"]):
        async with guarded(tmp_path, secrets, scripts=False) as engine:
            assert (await engine.record(run)).state is State.RUNNING
    async with guarded(tmp_path, [SECRET], scripts=False) as engine:
        assert written(await soon(collected(engine, run))) == b'a *** b\n::result "***"\n'


async def test_a_secret_that_is_not_known_any_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who takes the setting away must know; better than a run that nobody ever ends."""
    run = await half_told(tmp_path)
    (tmp_path / "scripts" / "go").touch()
    async with guarded(tmp_path, []) as engine:
        events = await soon(collected(engine, run))
    assert events[-1].type == "complete"
    assert "not known here any more" in caplog.text


async def test_what_a_profile_hands_to_its_scripts(tmp_path: Path) -> None:
    engine = Engine("memory:", grace=0.1)
    env = {"API_TOKEN": "t0ken-t0ken", "PIN_KEY": "1234", "GREETING": "good morning"}
    engine.allow_scripts(tmp_path, profiles={"shell": {"env": env}})
    (tmp_path / "env.sh").write_text('echo "$API_TOKEN $PIN_KEY $GREETING"')
    (tmp_path / "env.py").write_text("print('t0ken-t0ken')")
    async with engine:
        assert written(await told(engine, "script", file="env.sh")) == b"*** 1234 good morning\n"
        assert written(await told(engine, "script", file="env.py")) == b"t0ken-t0ken\n"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("API_TOKEN", True),
        ("token", True),
        ("GITHUB_TOKENS", True),
        ("APIKEY", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("PGPASSWORD", True),
        ("DB_PASSWD", True),
        ("SSH_KEY_FILE", True),
        ("GOOGLE_APPLICATION_CREDENTIALS", True),
        ("KEYBOARD", False),
        ("TOKENIZERS_PARALLELISM", False),
        ("PATH", False),
    ],
)
def test_which_variables_are_secret(name: str, is_one: bool) -> None:
    assert bool(builtin.secretive({name: "long enough"})) is is_one
    assert builtin.secretive({name: "short"}) == []


def test_a_secret_of_a_profile_that_cannot_be_masked(tmp_path: Path) -> None:
    profiles = {"shell": {"env": {"API_TOKEN": "x" * 5000}}}
    with pytest.raises(SettingsInvalid, match="4,096 bytes"):
        Engine("memory:").allow_scripts(tmp_path, profiles=profiles)


async def test_a_terminal_may_mask_as_well(tmp_path: Path) -> None:
    engine = Engine("memory:", grace=0.1, secrets=[SECRET])
    terminal = Terminal(spools=engine.spools, cwd=tmp_path, masks=engine.masks)
    engine.offer(terminal.command, name="command")
    async with engine:
        code = "printf hunter2-; sleep 0.05; echo hunter2"
        assert written(await told(engine, "command", argv=["sh", "-c", code])) == b"***\n"


def test_scripts_cannot_outlive_a_log_that_does_not_last(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="its log does not"):
        Engine("memory:").allow_scripts(tmp_path, survives=True)


async def test_how_far_the_log_has_come() -> None:
    async with using(MemoryLog()) as log:
        await how_far(log)


async def how_far(log: EventLog) -> None:
    run = (await log.create(new_run())).id
    assert await builtin.told(log, run) == Told()
    await log.append(Append(run, [output("ab", offset=2)]))
    await log.append(Append(run, [output("c", offset=3), output("somebody else's")]))
    assert await builtin.told(log, run) == Told(3)
    await log.append(Append(run, [draft("progress", {"current": n}, 0.0) for n in range(1000)]))
    assert await builtin.told(log, run) == Told(3)
    await log.append(Append(run, [output("x", offset=4, stream="stderr", cut=True)]))
    assert await builtin.told(log, run) == Told(3, frozenset({"stderr"}))


def output(text: str, stream: str = "stdout", **more: object) -> Draft:
    return draft("output", {"stream": stream, "text": text, **more}, 0.0)
