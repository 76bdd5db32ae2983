import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from tailrace.cli.main import main
from tailrace.client import Client
from tailrace.errors import ScriptFailed
from tailrace.facade import Tailrace
from tailrace.run import RunContext
from tailrace.server import app
from tailrace.server.settings import Settings


async def crunch(run: RunContext, rows: int = 2) -> dict[str, int]:
    """Counts."""
    for row in range(1, rows + 1):
        run.progress(row, rows, step="Crunching")
        run.output(f"row {row}\n")
    run.output("\x1b[31mred\x1b]0;title\x07\n", "stderr")
    run.log("careful", "warning")
    await run.drain()
    return {"rows": rows}


async def hang(run: RunContext) -> None:
    """Goes on until it is stopped."""
    run.output("here\n")
    await asyncio.sleep(3600)


async def broken(code: int | None = None) -> None:
    """Fails."""
    if code is None:
        raise ValueError("no luck")
    raise ScriptFailed(f"The program exited with code {code}.", exit_code=code)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that has the operations above, and scripts."""
    scripts = tmp_path_factory.mktemp("scripts")
    (scripts / "hello.py").write_text("import sys\nprint('hello', *sys.argv[1:])\n")
    (scripts / "slow.py").write_text("import time\nprint('slow')\ntime.sleep(60)\n")
    build, servers, said = app.build, [], []
    is_ready = threading.Event()

    def built(settings: Settings, *more: Any) -> Tailrace:
        runs = build(settings, *more)
        for function in (crunch, hang, broken):
            runs.operation(function)
        return runs

    class Known(app._Server):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            servers.append(self)

    def say(line: str) -> None:
        said.append(line)
        is_ready.set()

    settings = Settings(
        log="memory:",
        port=0,
        allow_root=(scripts,),
        grace=1.0,
        no_auth=True,
        rates={"run": "none"},
    )
    with mock.patch.object(app, "build", built), mock.patch.object(app, "_Server", Known):
        thread = threading.Thread(target=app.serve, args=(settings, say))
        thread.start()
        assert is_ready.wait(30)
    yield said[0].rpartition(" ")[2]
    servers[0].should_exit = True
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def client(base: str) -> Iterator[Client]:
    with Client(base) as made:
        yield made


@pytest.fixture
def url(base: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, as what the command line uses by default."""
    monkeypatch.setenv("TAILRACE_URL", base)
    return base


@pytest.fixture
def done(client: Client) -> str:
    """A completed run of `crunch`."""
    run = client.start("crunch")["id"]
    assert client.wait(run)["state"] == "completed"
    return str(run)


@pytest.fixture
def going(client: Client) -> Iterator[str]:
    """A run that goes on."""
    run = str(client.start("hang")["id"])
    for event in client.watch(run, patience=10.0):
        if event.id == "2":
            break
    yield run
    client.cancel(run)


class Told:
    """What a command line came to."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def tailrace(capfd: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Runs a command line in this process."""

    def run(*words: str) -> Told:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(words)
        out, err = capfd.readouterr()
        assert isinstance(caught.value.code, int)
        return Told(caught.value.code, out, err)

    return run
