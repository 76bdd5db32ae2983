"""Rules about the files themselves."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "tailrace"
UNIT = ROOT / "tests" / "unit"
SOURCES = sorted(PACKAGE.rglob("*.py"))

CEILING = 400
TWIN_FROM = 40

# Paths below src/tailrace, each with the reason why it has no twin.
WITHOUT_TWIN: dict[str, str] = {
    "__init__.py": "only names, and tests/house/test_docs.py looks each of them up",
}

# Paths below the project, each with the reason why it holds CRLF.
WITH_CRLF: dict[str, str] = {}

BANNED = {"manager", "handler", "helper", "util", "common", "service", "data", "misc"}
BANNED |= {word + "s" for word in BANNED}

# Split, so that this file passes its own check.
ADDRESSES = ["pypi" + ".org", "files.python" + "hosted", "registry.npm" + "js", "deb.deb" + "ian"]


def lines(source: Path) -> int:
    return len(source.read_text(encoding="utf-8").splitlines())


def twin(source: Path) -> Path:
    place = source.relative_to(PACKAGE.parent).with_suffix("")
    if place.name == "__init__":
        place = place.parent
    return UNIT.joinpath(*place.parts[1:-1], f"test_{place.name.strip('_')}.py")


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def class_names(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            yield node.name


@pytest.fixture(scope="module")
def texts() -> dict[str, bytes]:
    """Every text file that is, or would be, committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    # A checkout may belong to another user than the one who tests it.
    git = ["git", "-c", "safe.directory=*"]
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = sorted(filter(None, listed.stdout.decode().split("\0")))
    contents = {name: (ROOT / name).read_bytes() for name in names if (ROOT / name).is_file()}
    return {name: content for name, content in contents.items() if b"\0" not in content}


def test_no_file_passes_the_ceiling() -> None:
    counts = {str(source.relative_to(ROOT)): lines(source) for source in SOURCES}
    assert {name: count for name, count in counts.items() if count > CEILING} == {}


def test_every_module_has_a_twin_that_tests_it() -> None:
    missing = {
        str(source.relative_to(PACKAGE)): str(twin(source).relative_to(ROOT))
        for source in SOURCES
        if lines(source) >= TWIN_FROM and not twin(source).is_file()
    }
    assert {name: path for name, path in missing.items() if name not in WITHOUT_TWIN} == {}
    assert set(WITHOUT_TWIN) <= set(missing), "an exception outlived its reason"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("__init__.py", "test_tailrace.py"),
        ("hub.py", "test_hub.py"),
        ("protocol/__init__.py", "test_protocol.py"),
        ("protocol/sse.py", "protocol/test_sse.py"),
        ("runners/_shim.py", "runners/test_shim.py"),
    ],
)
def test_where_a_twin_is(source: str, expected: str) -> None:
    assert twin(PACKAGE / source) == UNIT / expected


def test_no_file_has_a_vague_name() -> None:
    vague = [
        str(source.relative_to(PACKAGE))
        for source in SOURCES
        if any(words(part) & BANNED for part in source.relative_to(PACKAGE).with_suffix("").parts)
    ]
    assert vague == []


def test_no_class_has_a_vague_name() -> None:
    vague = [
        f"{source.relative_to(PACKAGE)}: {name}"
        for source in SOURCES
        for name in class_names(source)
        if words(name) & BANNED
    ]
    assert vague == []


@pytest.mark.parametrize(
    ("name", "vague"),
    [
        ("RunManager", True),
        ("HTTPHandler", True),
        ("string_utils", True),
        ("Metadata", False),
        ("Database", False),
        ("DataFrame", True),
    ],
)
def test_what_is_vague(name: str, vague: bool) -> None:
    assert bool(words(name) & BANNED) is vague


def test_no_file_names_a_package_index(texts: dict[str, bytes]) -> None:
    named = [
        f"{name}: {address}"
        for name, content in texts.items()
        for address in ADDRESSES
        if address.encode() in content
    ]
    assert named == []


def test_line_ends_are_lf(texts: dict[str, bytes]) -> None:
    assert [name for name in texts if b"\r\n" in texts[name] and name not in WITH_CRLF] == []
