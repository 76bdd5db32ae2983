from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.runners.beneath import Refused, enter
from tailrace.runners.script import locate


@pytest.fixture(autouse=True)
def here() -> Iterator[None]:
    before = Path.cwd()
    yield
    os.chdir(before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "x.sh").write_text("echo inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.sh").write_text("echo outside")
    return root


def way(root: Path) -> list[Any]:
    return locate("a/b/x.sh", [root]).beneath


def test_where_the_file_is(root: Path) -> None:
    enter(way(root))
    assert Path.cwd() == root / "a" / "b"
    assert Path("x.sh").read_text() == "echo inside"


def test_the_folder_stays_what_it_is_whatever_becomes_of_its_name(root: Path) -> None:
    enter(way(root))
    (root / "a").rename(root / "moved")
    (root / "a").symlink_to(root.parent / "outside")
    assert Path("x.sh").read_text() == "echo inside"


@pytest.mark.parametrize("place", ["a", "a/b"])
def test_no_folder_is_a_link(root: Path, place: str) -> None:
    found = way(root)
    (root / place).rename(root.parent / "away")
    (root / place).symlink_to(root.parent / "away")
    with pytest.raises(Refused):
        enter(found)


def test_no_file_is_a_link(root: Path) -> None:
    found = way(root)
    file = root / "a" / "b" / "x.sh"
    file.rename(root / "a" / "b" / "y.sh")
    file.symlink_to("y.sh")
    with pytest.raises(Refused, match="another file"):
        enter(found)


def test_no_other_file(root: Path) -> None:
    found = way(root)
    other = root / "other"
    other.write_text("echo other")
    other.rename(root / "a" / "b" / "x.sh")
    with pytest.raises(Refused, match="another file"):
        enter(found)


def test_nothing(root: Path) -> None:
    found = way(root)
    (root / "a" / "b" / "x.sh").unlink()
    with pytest.raises(Refused, match="No such file"):
        enter(found)


def test_nothing_stays_open(root: Path) -> None:
    found = way(root)
    before = len(list(Path("/proc/self/fd").iterdir()))
    enter(found)
    (root / "a" / "b" / "x.sh").unlink()
    with pytest.raises(Refused):
        enter(found)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
