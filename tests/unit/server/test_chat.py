from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.agent.models import Endpoint
from tailrace.errors import SettingsInvalid
from tailrace.server import app
from tailrace.server.chat import ChatSettings, read
from tailrace.server.settings import Settings, load
from tests.processes import ROOT


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is imported from a folder of one test is not there in the next."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = {*sys.modules}
    yield
    for name in {*sys.modules} - known:
        if name.startswith("stock"):
            del sys.modules[name]


def written(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "tailrace.toml"
    path.write_text(text, encoding="utf-8")
    return {"config": path, "log": "memory:"}


def plain(chat: ChatSettings | None, **given: Any) -> bool:
    """Whether nothing but that was said; routers are not compared."""
    assert chat is not None
    return chat == ChatSettings(**given, router=chat.router)


def test_without_a_table_there_is_no_chat() -> None:
    assert load({}, {}).chat is None
    runs = app.build(Settings(log="memory:"))
    assert list(runs.operations) == []


def test_an_empty_table_is_the_built_in_model(tmp_path: Path) -> None:
    settings = load(written(tmp_path, "[chat]\n"), {})
    assert plain(settings.chat, folder=tmp_path)
    runs = app.build(settings)
    chat = runs.operations.get("chat")
    assert chat.timeout == 600
    assert "/mcp/chat/stream" in runs.asgi.openapi()["paths"]


def test_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_KEY", "sk-local-12345")
    (tmp_path / "stock.py").write_text("def find(name: str) -> int:\n    return 1\n")
    chat = load(
        written(
            tmp_path,
            """
            [chat]
            model = "local"
            models = ["anthropic:*", "demo"]
            instructions = "Be brief."
            tools = ["stock:find"]
            operations = ["market.*"]
            iterations = 3
            timeout = 12.5
            history = "client"

            [chat.endpoints.local]
            model = "qwen"
            base_url = "http://127.0.0.1:18081/v1"
            key_env = "LOCAL_KEY"

            [chat.endpoints.other]
            model = "openai:gpt-5"

            [chat.rules.legal]
            when = { words = ["contract"] }
            score = 3
            reason = "asks about contracts"

            [[chat.routes]]
            name = "deep"
            when = { min_score = 7 }
            model = "mistral:large"

            [[chat.routes]]
            name = "direct"
            """,
        ),
        {},
    ).chat
    assert chat is not None
    told = chat.options()
    (find,) = told.pop("tools")
    assert find("nails") == 1
    router = told.pop("router")
    assert [route.name for route in router.routes] == ["deep", "direct"]
    assert told == {
        "model": "local",
        "models": ("anthropic:*", "demo"),
        "endpoints": {
            "local": Endpoint("qwen", "http://127.0.0.1:18081/v1", "sk-local-12345"),
            "other": Endpoint("openai:gpt-5"),
        },
        "operations": ("market.*",),
        "instructions": "Be brief.",
        "iterations": 3,
        "timeout": 12.5,
        "client_history": True,
    }
    assert chat.secrets == ("LOCAL_KEY",)
    assert "sk-local" not in repr(chat)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('modle = "x"', "chat.modle is not one of model, models"),
        ("model = 7", "chat.model must be a text"),
        ('model = " "', "chat.model must be a text"),
        ('models = "openai:*"', "chat.models must be a list of texts"),
        ("models = [7]", "chat.models must be a list of texts"),
        ("instructions = []", "chat.instructions must be a text"),
        ('tools = "stock:find"', "chat.tools must be a list of texts"),
        *(
            (f'tools = ["{name}"]', "chat.tools must be a list of functions")
            for name in (
                "stock",
                "a:b:c",
                ":find",
                "stock:",
                ".stock:find",
                "../stock:find",
                "a b:c",
            )
        ),
        ('operations = "*"', "chat.operations must be a list"),
        ("iterations = 0", "chat.iterations must be a whole number from 1 to 100"),
        ("iterations = 101", "chat.iterations must be"),
        ("iterations = 2.5", "chat.iterations must be"),
        ("iterations = true", "chat.iterations must be"),
        ("timeout = 0", "chat.timeout must be a number of seconds"),
        ("timeout = nan", "chat.timeout must be"),
        ("timeout = inf", "chat.timeout must be"),
        ('timeout = "60"', "chat.timeout must be"),
        ('history = "both"', 'chat.history must be "server" or "client"'),
        ("endpoints = 7", "chat.endpoints must be tables"),
        ("endpoints.x = 7", "chat.endpoints.x has more than"),
        ("endpoints.x = {}", "chat.endpoints.x.model must be a text"),
        ('endpoints.x = { model = "" }', "chat.endpoints.x.model must be a text"),
        ('endpoints.x = { model = "m", key = "k" }', "chat.endpoints.x has more than"),
        ('endpoints.x = { model = "m", base_url = "ftp://x" }', "base_url is not the URL"),
        ('endpoints.x = { model = "m", base_url = "http://" }', "base_url is not the URL"),
        ('endpoints.x = { model = "m", base_url = "http://[::1" }', "base_url is not the URL"),
        ('endpoints.x = { model = "m", base_url = 7 }', "base_url must be a text"),
        ('endpoints.demo = { model = "m" }', "the name of the built-in model"),
        (
            'endpoints.x = { model = "m", key_env = "NO_SUCH_KEY" }',
            "NO_SUCH_KEY, and that variable",
        ),
        ("rules = 7", "rules"),
        ("routes = 7", "routes"),
    ],
)
def test_what_makes_no_sense(tmp_path: Path, said: str, why: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        load(written(tmp_path, f"[chat]\n{said}\n"), {})
    assert why in str(refused.value)
    assert str(tmp_path / "tailrace.toml") in str(refused.value)
    assert refused.value.fix


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (None, "There is no function 'stock:find', which chat.tools names: No module named"),
        (
            "x = 1\n",
            "There is no function 'stock:find', which chat.tools names: module 'stock' has",
        ),
        ("find = 7\n", "'stock:find', which chat.tools names, is no function"),
        ("def find(:\n", "cannot be imported: SyntaxError"),
        ("raise RuntimeError('no stock')\n", "cannot be imported: RuntimeError: no stock"),
        ("import no_such_package\n", "No module named 'no_such_package'"),
    ],
)
def test_a_function_that_cannot_be_found(tmp_path: Path, module: str | None, why: str) -> None:
    if module is not None:
        (tmp_path / "stock.py").write_text(module)
    settings = load(written(tmp_path, '[chat]\ntools = ["stock:find"]\n'), {})
    with pytest.raises(SettingsInvalid) as refused:
        app.build(settings)
    assert why in str(refused.value)
    assert refused.value.fix


def test_a_function_in_a_package_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "stockroom").mkdir()
    (tmp_path / "stockroom" / "shelf.py").write_text("def find(name: str) -> int:\n    return 1\n")
    settings = load(written(tmp_path, '[chat]\ntools = ["stockroom.shelf:find"]\n'), {})
    runs = app.build(settings)
    assert [operation.name for operation in runs.operations] == ["chat"]


def test_the_flag_says_which_model_and_nothing_else(tmp_path: Path) -> None:
    given = written(tmp_path, '[chat]\nmodel = "a"\ninstructions = "Be brief."\niterations = 3\n')
    chat = load(given | {"chat": "demo"}, {"TAILRACE_CHAT": "b"}).chat
    assert chat is not None
    assert (chat.model, chat.instructions, chat.iterations) == ("demo", "Be brief.", 3)
    assert chat.folder == tmp_path
    from_env = load(given, {"TAILRACE_CHAT": "b"}).chat
    assert from_env is not None
    assert (from_env.model, from_env.instructions) == ("b", "Be brief.")
    unsaid = load(given, {"TAILRACE_CHAT": ""}).chat
    assert plain(unsaid, model="a", instructions="Be brief.", iterations=3, folder=tmp_path)


@pytest.mark.parametrize(
    ("flags", "env"), [({"chat": "demo"}, {}), ({}, {"TAILRACE_CHAT": "demo"})]
)
def test_without_a_file(flags: dict[str, Any], env: dict[str, str]) -> None:
    assert plain(load(flags, env).chat, model="demo")


def test_a_flag_that_names_nothing() -> None:
    with pytest.raises(SettingsInvalid, match="--chat must be the name of a model"):
        load({"chat": " "}, {})


def test_somebodys_own_app_has_its_own_chat() -> None:
    with pytest.raises(SettingsInvalid, match="chat is for Tailrace's own app"):
        load({"app": "main:app", "chat": "demo"}, {})


# ------------------------------------------------------------------ keys


Masked = Callable[..., set[str]]


@pytest.fixture
def masked(tmp_path: Path) -> Masked:
    def names(text: str, **env: str) -> set[str]:
        chat = load(written(tmp_path, text), {}).chat
        assert chat is not None
        return {*chat.masked(env)}

    return names


def test_which_keys_are_masked(masked: Masked, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {f"{name}_API_KEY": "sk-123456789" for name in ("OPENAI", "ANTHROPIC", "MISTRAL", "XAI")}
    monkeypatch.setenv("LOCAL_KEY", "sk-local-12345")
    text = """
    [chat]
    model = "openai-responses:gpt-5"
    models = ["anthropic:*"]
    [chat.endpoints.local]
    model = "qwen"
    base_url = "http://127.0.0.1:1/v1"
    key_env = "LOCAL_KEY"
    [[chat.routes]]
    name = "deep"
    when = { min_score = 7 }
    model = "mistral:large"
    [[chat.routes]]
    name = "direct"
    """
    found = masked(text, LOCAL_KEY="sk-local-12345", **env)
    assert found == {"LOCAL_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "MISTRAL_API_KEY"}
    assert masked(text, LOCAL_KEY="sk-local-12345") == {"LOCAL_KEY"}


def test_what_is_too_short_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that want no key often want any."""
    monkeypatch.setenv("LOCAL_KEY", "ollama")
    text = (
        '[chat.endpoints.x]\nmodel = "m"\nbase_url = "http://127.0.0.1:1/v1"\nkey_env = "LOCAL_KEY"'
    )
    runs = app.build(load(written(tmp_path, text), {}))
    assert runs.masks.apply("ollama") == "ollama"


def test_a_key_is_never_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_KEY", "sk-local-12345")
    text = (
        '[chat.endpoints.x]\nmodel = "m"\nbase_url = "http://127.0.0.1:1/v1"\nkey_env = "LOCAL_KEY"'
    )
    runs = app.build(load(written(tmp_path, text), {}))
    assert b"sk-local" not in runs.masks.json(b'{"a":"sk-local-12345"}')


def test_what_the_documentation_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    monkeypatch.setenv("LOCAL_KEY", "sk-local-12345")
    chat = load(written(tmp_path, block), {}).chat
    assert chat is not None
    assert (chat.tools, chat.models) == (("shop.stock:find",), ("anthropic:*", "local"))
    assert [route.name for route in chat.router.routes] == ["deep", "direct"]
    named = set(re.findall(r"^(\w+) = ", block.split("[chat.endpoints")[0], re.MULTILINE))
    assert named == {"model", "models", "instructions", "tools", "operations", "iterations",
                     "timeout", "history"}  # fmt: skip


def test_read_by_itself() -> None:
    assert plain(read({}, Path("x")), folder=Path("x"))
