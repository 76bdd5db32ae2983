"""Every block of code in the documentation is looked at, and every page can be found."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import tailrace
from tailrace import errors
from tailrace.protocol import wire
from tailrace.server import settings
from tests.docs.snippets import DOCS, PAGES, ROOT, Block, blocks, strays

ALL = [block for page in PAGES for block in blocks(page)]
WHOLE = [block for block in ALL if block.mark != "fragment"]
# Those without a language are drawings, and headers of HTTP.
LANGUAGES = {
    "",
    "console",
    "html",
    "js",
    "json",
    "mermaid",
    "nginx",
    "python",
    "sh",
    "text",
    "toml",
}
LANGUAGES |= {"caddyfile", "diff", "haproxy", "http", "yaml"}


def of(language: str) -> pytest.MarkDecorator:
    found = [block for block in WHOLE if block.language == language]
    return pytest.mark.parametrize("block", found, ids=str)


def test_every_block_says_what_it_is() -> None:
    assert {str(block): block.language for block in ALL if block.language not in LANGUAGES} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_marks_mark_something(page: Path) -> None:
    assert strays(page) == []
    for block in blocks(page):
        assert block.mark != "fragment" or block.argument, f"{block}: a fragment says why"


@of("python")
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@of("toml")
def test_settings_are_understood(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tomllib.loads(block.text)
    for variable in re.findall(r'key_env = "(\w+)"', block.text):
        monkeypatch.setenv(variable, "a-key-of-somebody")
    (tmp_path / "scripts").mkdir()
    file = tmp_path / "tailrace.toml"
    file.write_text(block.text, encoding="utf-8")
    settings.load({"config": file}, {})


@of("json")
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


@of("sh")
def test_shells_can_read_it(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)


@of("js")
def test_javascript_can_be_read(block: Block) -> None:
    node = shutil.which("node") or next(
        map(str, (ROOT / "tests" / "conformance").glob(".node/**/bin/node")), None
    )
    if node is None:
        pytest.skip("there is no Node here")
    words = [node, "--input-type=module", "--check"]
    subprocess.run(words, input=block.text, text=True, check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_somewhere(page: Path) -> None:
    # What is between fences is no link.
    flags = re.MULTILINE | re.DOTALL
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=flags)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def nav(entries: list[Any]) -> set[str]:
    found: set[str] = set()
    for entry in entries:
        for below in entry.values():
            found |= nav(below) if isinstance(below, list) else {below}
    return found


def test_every_page_is_in_the_table_of_contents() -> None:
    project = tomllib.loads((DOCS / "zensical.toml").read_text(encoding="utf-8"))["project"]
    beside = {f"{name}.md" for name in ("architecture", "changelog", "contributing", "security")}
    assert nav(project["nav"]) == {str(page.relative_to(DOCS)) for page in PAGES} | beside


def test_every_public_name_has_its_docstring_there() -> None:
    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^::: tailrace\.(\w+)$", text, re.MULTILINE))
    # Told with the other errors, which it is the base of.
    assert named == {*tailrace.__all__} - {"TailraceError"}


def test_every_test_that_shows_a_promise_is_there() -> None:
    text = (DOCS / "explanation" / "promises.md").read_text(encoding="utf-8")
    shown = re.findall(r"^- `(tests/[\w/]+\.py)(?:::(\w+))?`$", text, re.MULTILINE)
    for file, name in shown:
        source = (ROOT / file).read_text(encoding="utf-8")
        # A file alone is all that is in it, such as a suite.
        defined = rf"^(async )?def {name}\(" if name else "."
        assert re.search(defined, source, re.MULTILINE), (file, name)
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [section.split(".")[0] for section in sections] == [f"P{n}" for n in range(1, 12)]
    assert all("- `tests/" in section for section in sections)


def test_the_wire_has_the_numbers_of_the_code() -> None:
    text = (DOCS / "wire.md").read_text(encoding="utf-8")
    for said in (
        f"`retry: {wire.RETRY_MS}`",
        f"`retry: {wire.RETRY_AFTER_SHUTDOWN_MS}`",
        f"After {wire.HEARTBEAT_SECONDS:g} s without anything else",
        f"had no byte for {3 * wire.HEARTBEAT_SECONDS:g} s",
        f"does not read for {wire.WRITE_DEADLINE_SECONDS:g} s",
        f"a body is {wire.MAX_BODY_BYTES >> 20} MiB at most",
    ):
        assert said in text, said


def test_codes_that_are_told_are_codes() -> None:
    known = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.TailraceError)
    }
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        told = set(re.findall(r"\b40[039]\b[^|\n]{0,40}?`([a-z]+(?:-[a-z]+)+)`", text))
        assert told <= known, (page.name, told - known)
