"""No name, and nobody who moves the files about, leads out of the folders of the scripts."""

import asyncio
import collections
import contextlib
import ctypes
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tailrace.errors import PathForbidden, ScriptFailed
from tailrace.protocol.output import raw
from tailrace.runners.contract import Sink
from tailrace.runners.profiles import Profile, Profiles
from tailrace.runners.script import Program, environment, execute, locate
from tailrace.runners.sweep import sweep

NAMES: Final = 10_000
ROUNDS: Final = 10_000
RUNS: Final = 200

# --- names -----------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two roots, and next to them what must not be reached: by the same names, and by links."""
    for folder in (
        "root",
        "root/sub",
        "root/sub/deep",
        "other",
        "outside",
        "outside/sub/deep",
        "root-too",
        "root\uff0e",
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in ("x.sh", "y.py", "tool"):
            (tmp_path / folder / name).write_text("echo")
            (tmp_path / folder / name).chmod(0o755)
    (tmp_path / "secret.sh").write_text("echo")
    root = tmp_path / "root"
    (root / "notes.txt").touch()
    (root / "plain").touch()
    for name in ("x.sh ", "x.sh.", "..x.sh", "...", "~", "%2e%2e", "\uff0e\uff0e"):
        (root / name).write_text("echo")
    links = {
        "out": tmp_path / "outside",
        "up": Path(".."),
        "top": Path("/"),
        "in": root / "sub",
        "out.sh": tmp_path / "outside" / "x.sh",
        "secret.sh": Path("../secret.sh"),
        "in.sh": Path("sub/x.sh"),
        "by.py": Path("out/../outside/y.py"),
        "loop.sh": Path("loop.sh"),
        "gone.sh": Path("nothing.sh"),
        "self": Path("/proc/self"),
        "sub/up": Path("../.."),
        "sub/deep/back": root,
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo.sh")
    return tmp_path


PARTS: Final = [
    "..", ".", "", "/", "//", "sub", "deep", "out", "up", "top", "in", "self", "back", "other",
    "root", "root-too", "outside", "x.sh", "y.py", "tool", "plain", "notes.txt", "secret.sh",
    "out.sh", "in.sh", "by.py", "loop.sh", "gone.sh", "fifo.sh", "~", "~root", "$HOME", "*", "...",
    "..x.sh", "x.sh ", "x.sh.", " x.sh", "x.SH", "%2e%2e", "%2f", "..%2f", "..%c0%af", "..\\",
    "\\", "\uff0e\uff0e", "\u2024\u2024", "\uff0f", "\u2215", "\u202e", "\u200b", "\0", "x.sh\0",
    "x.sh\0.py", "\ud800", "\udc80", "\n", "\r\n", "\x7f", "-", "--", "é", "e\u0301", "a" * 255,
    "a" * 256, "x" * 5000, "../" * 40, "./" * 2000, "{0}", "{0}/root", "{0}/outside", "{0}/root/..",
    "/proc/self/root", "/proc/self/cwd", "/proc/self/root{0}", "/proc/self/root{0}/root",
    "/dev/fd/{1}", "/dev/fd/{2}", "/proc/self/fd/{1}", "/proc/self/fd/{2}", "/proc/self/fd/{3}",
    "/proc/thread-self/root", "/dev/stdin", "/etc/passwd", "/bin/sh", "file:", "C:", "NUL",
]  # fmt: skip


def walked(chance: random.Random, root: Path) -> str:
    """A name of something that is there, inside or outside, by whatever way."""
    way: list[str] = []
    for _ in range(chance.randrange(1, 7)):
        here = root.joinpath(*way)
        if not here.is_dir():
            break
        entries = [
            name for name in sorted(p.name for p in here.iterdir()) if len(way) < 6 or "." in name
        ]
        way.append(chance.choice([*entries, *entries, "..", ".", ""]))
    return chance.choice(("/", "/", "//", "/./")).join(way)


def named(chance: random.Random, *places: object) -> str:
    """A name, of the kind somebody would try."""
    parts = [part.format(*places) for part in chance.choices(PARTS, k=chance.randrange(1, 6))]
    if chance.random() < 0.7:
        # One that would be found if the way led there.
        parts.append(chance.choice(("x.sh", "y.py", "tool", "secret.sh")))
    name = chance.choice(("/", "/", "/", "//", "/./", "")).join(parts)
    if chance.random() < 0.1:
        at = chance.randrange(len(name) + 1)
        name = name[:at] + chr(chance.randrange(0x11_0000)) + name[at:]
    return name


def test_no_name_leads_outside(tree: Path) -> None:
    roots = [tree / "root", tree / "other"]
    real = [root.resolve() for root in roots]
    profiles = Profiles()
    chance = random.Random(7)
    found: collections.Counter[str] = collections.Counter()
    with contextlib.ExitStack() as stack:
        here, outside, inside = (
            os.open(place, os.O_RDONLY)
            for place in (tree / "outside", tree / "outside" / "x.sh", tree / "root" / "x.sh")
        )
        for fd in (here, outside, inside):
            stack.callback(os.close, fd)
        for _ in range(NAMES):
            if chance.random() < 0.5:
                name = walked(chance, roots[0])
            else:
                name = named(chance, tree, outside, here, inside)
            try:
                path, beneath = locate(name, roots)
                profile = profiles.of(path)
            except PathForbidden as error:
                # What is said of it can be sent to somebody.
                str(error).encode()
                found["refused"] += 1
                continue
            assert os.path.realpath(path) == str(path), name
            assert any(path.is_relative_to(root) for root in real), name
            assert path.is_file(), name
            top, *way, device, inode = beneath
            assert Path(top, *way) == path, name
            assert not {"", ".", ".."} & set(way), name
            assert [device, inode] == [path.lstat().st_dev, path.lstat().st_ino], name
            found[profile.name] += 1
            found["through a link"] += any(part in name for part in ("in/", "in.sh", "back", "up/"))
    print(f"{NAMES} names: {dict(found)}")
    assert found["refused"] > NAMES / 2
    assert min(found[kind] for kind in ("shell", "python", "program", "through a link")) > 50


# --- a race ----------------------------------------------------------------------------

# Exchanges pairs of names, each at once (renameat2(2)), as fast as it can.
SWAPPER: Final = """
import ctypes, os, sys
rename = ctypes.CDLL(None).renameat2
pairs = [tuple(map(os.fsencode, pair.split(":"))) for pair in sys.argv[1:]]
print("ready", flush=True)
while True:
    for this, that in pairs:
        for _ in range(64):
            rename(-100, this, -100, that, 2)
"""

# Looks, and then enters as a shim does, in a process of its own: that is where it ends up.
LOOKER: Final = """
import collections, json, os, sys
from pathlib import Path
from tailrace.errors import PathForbidden
from tailrace.runners.script import locate
from tailrace.runners.beneath import Refused, enter

root, rounds = Path(sys.argv[1]), int(sys.argv[2])
seen = collections.Counter()
for _ in range(rounds):
    try:
        path, beneath = locate("sub/x.sh", [root])
    except PathForbidden:
        seen["not found"] += 1
        continue
    try:
        enter(beneath)
    except Refused:
        seen["refused"] += 1
        continue
    here = os.stat(".")
    seen[f"entered {here.st_ino}, approved {beneath[-1]}"] += 1
print(json.dumps(seen))
"""


@pytest.fixture
def race(tmp_path: Path) -> Path:
    """A root with a folder and a script, and what may take their places."""
    for folder, word in (("root/sub", "INSIDE"), ("outside", "OUTSIDE")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.sh").write_text(f"echo {word}\n")
    (tmp_path / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "file").symlink_to(tmp_path / "outside" / "x.sh")
    return tmp_path


FOLDER: Final = ("root/sub", "folder")
FILE: Final = ("root/sub/x.sh", "file")


@contextlib.contextmanager
def swapping(tree: Path, *pairs: tuple[str, str]) -> Iterator[None]:
    """While names are exchanged."""
    words = [":".join(str(tree / name) for name in pair) for pair in pairs]
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", SWAPPER, *words], stdout=subprocess.PIPE
    ) as swapper:
        try:
            assert swapper.stdout is not None
            assert swapper.stdout.readline() == b"ready\n"
            yield
        finally:
            swapper.kill()


needs_exchange = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "renameat2"), reason="names cannot be exchanged at once here"
)


@needs_exchange
@pytest.mark.slow
@pytest.mark.parametrize("pairs", [(FOLDER,), (FILE,), (FOLDER, FILE)], ids=["dir", "file", "both"])
def test_nobody_is_led_outside_by_an_exchange(
    race: Path, pairs: tuple[tuple[str, str], ...]
) -> None:
    folder, file = ((race / name).stat().st_ino for name in ("root/sub", "root/sub/x.sh"))
    with swapping(race, *pairs):
        ran = subprocess.run(
            [sys.executable, "-c", LOOKER, str(race / "root"), str(ROUNDS)],
            stdout=subprocess.PIPE, check=True, timeout=120,
        )  # fmt: skip
    seen = json.loads(ran.stdout)
    refused = {what: seen.pop(what, 0) for what in ("not found", "refused")}
    print(f"{ROUNDS} rounds: {refused}, approved: {seen}")
    assert list(seen) == [f"entered {folder}, approved {file}"]
    assert min(refused.values()) > 0


class Heard(Sink):
    """What a program wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
        if type == "output":
            self.written += raw(payload)

    async def ebb(self) -> None:
        return

    async def drain(self) -> None:
        return


async def ran(tree: Path, number: int) -> str:
    """What becomes of a run of the script, from the look at its name on."""
    try:
        path, beneath = locate("sub/x.sh", [tree / "root"])
    except PathForbidden:
        return "not found"
    run = f"run_{os.getpid()}_{number}"
    program = Program(
        argv=["/bin/sh", f"./{path.name}"],
        env=environment(run, {}),
        profile=Profile(name="shell", output="pipe"),
        beneath=beneath,
    )
    sink = Heard()
    try:
        async with asyncio.timeout(20):
            await execute(sink, program, tree / "spools" / run)
    except PathForbidden:
        assert sink.written == b""
        return "refused"
    except ScriptFailed as error:
        return f"{sink.written!r} {error}"
    finally:
        sweep(run)
    return sink.written.decode()


@needs_exchange
@pytest.mark.slow
def test_no_run_ends_up_outside(race: Path) -> None:
    """A folder is exchanged, from the look at the name to the end of the program."""
    seen: collections.Counter[str] = collections.Counter()

    async def main() -> None:
        left = iter(range(RUNS))

        async def some() -> None:
            for number in left:
                while (outcome := await ran(race, number)) == "not found":
                    seen[outcome] += 1
                    await asyncio.sleep(0)
                seen[outcome] += 1

        await asyncio.gather(*(some() for _ in range(4)))

    with swapping(race, FOLDER):
        asyncio.run(main())
    print(f"{RUNS} runs: {dict(seen)}")
    assert set(seen) == {"INSIDE\n", "refused", "not found"}
