"""The documentation says what is there, and its examples run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tailrace
import tailrace.testing
from tailrace.protocol import lifecycle

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_reference_lists_exactly_the_public_names() -> None:
    table = REFERENCE.split("| name |")[1].split("##")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == sorted(tailrace.__all__)


@pytest.mark.parametrize("name", tailrace.__all__)
def test_public_names_can_be_had_and_are_documented(name: str) -> None:
    assert getattr(tailrace, name).__doc__
    assert name in dir(tailrace)


def test_unknown_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="Tailracer"):
        tailrace.Tailracer  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("fastapi", "pydantic", "httpx2", "asyncio")
    code = f"import sys, tailrace; print(*sys.modules.keys() & {heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()


def test_the_diagram_is_drawn_from_the_table() -> None:
    assert lifecycle.diagram() in REFERENCE


def test_the_floors_are_drawn_as_they_are_checked() -> None:
    drawn = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## Floors")[1]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    names = [re.sub(r"[()]", "", layer) for layer in layers]
    lines = re.findall(r"^    ([a-z_ |]+?)(?:  .*)?$", drawn, re.MULTILINE)
    assert lines == names


def test_readme_and_package_examples_compile() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)


def test_readme_example_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    space: dict[str, object] = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), space)
    names = [operation.name for operation in space["runs"].operations]  # type: ignore[attr-defined]
    assert names == ["crunch"]


def test_reference_lists_exactly_the_names_for_tests() -> None:
    table = REFERENCE.split("| for tests |")[1]
    names = re.findall(r"`([A-Za-z_]+)`", "".join(re.findall(r"^\|[^|]*\|", table, re.MULTILINE)))
    assert sorted(names) == sorted(tailrace.testing.__all__)
    assert all(getattr(tailrace.testing, name).__doc__ for name in names)


def test_the_example_tests_pass(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    for name, block in re.findall(r"```python\n# (\S+\.py)\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).write_text(block)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "no:schemathesis", str(tmp_path)]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert f"\n{page.count('async def test_')} passed in" in done.stdout, done.stdout


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target
