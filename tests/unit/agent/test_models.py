from __future__ import annotations

import pytest
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

from tailrace.agent.models import DEMO, MAX_NAME, Endpoint, Models
from tailrace.errors import InputInvalid, SettingsInvalid
from tests.speaking import model

LOCAL = Endpoint("qwen", "http://127.0.0.1:9/v1", "secret-key")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_request_chooses_among_what_is_allowed() -> None:
    models = Models("house", ["openai:*", "x:y"], {"house": LOCAL, "own": LOCAL})
    assert models.names == ["house", "own", "demo"]
    for name in ("own", "demo", "openai:gpt-5", "x:y", "house"):
        assert models.choose(name) == name
    assert models.choose(None) == "house"


@pytest.mark.parametrize("name", ["anthropic:x", "http://evil/v1", "", "x", "openai:" + "x" * 200])
def test_a_request_may_not_ask_for_anything_else(name: str) -> None:
    with pytest.raises(InputInvalid, match="does not ask the model") as caught:
        Models("house", ["openai:*"], {"house": LOCAL}).choose(name)
    assert "house, demo" in caught.value.fix
    assert len(str(caught.value)) < MAX_NAME


def test_a_model_of_ones_own_is_the_default() -> None:
    own = model(["x"])
    models = Models(own)
    assert models.default == "function:spoken"
    assert models.resolve("function:spoken") is own
    assert models.known("function:spoken") is own


def test_the_built_in_one_needs_nothing() -> None:
    models = Models()
    assert models.known(DEMO) is None
    made = models.resolve(models.choose(None))
    assert isinstance(made, FunctionModel)
    assert models.resolve(DEMO) is made
    assert models.known(DEMO) is made


def test_an_endpoint_is_asked_where_it_is() -> None:
    made = Models("house", (), {"house": LOCAL}).resolve("house")
    assert isinstance(made, OpenAIChatModel)
    assert made.model_name == "qwen"
    assert made.base_url == "http://127.0.0.1:9/v1/"
    assert made.client.api_key == "secret-key"
    assert "secret-key" not in repr(LOCAL)


def test_the_key_of_a_provider_is_not_shown_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-live")
    made = Models("house", (), {"house": Endpoint("qwen", "http://127.0.0.1:9/v1")}).resolve(
        "house"
    )
    assert isinstance(made, OpenAIChatModel)
    assert made.client.api_key != "sk-live"


def test_a_key_may_be_given_for_a_provider() -> None:
    models = Models("gpt", (), {"gpt": Endpoint("openai:gpt-5", key="sk-own")})
    made = models.resolve("gpt")
    assert isinstance(made, OpenAIResponsesModel)
    assert made.client.api_key == "sk-own"
    assert models.keys == ["sk-own"]


def test_what_is_missing_is_said() -> None:
    models = Models("demo", ["*"])
    with pytest.raises(SettingsInvalid, match="OPENAI_API_KEY") as caught:
        models.resolve("openai:gpt-5")
    assert "Agent('test')" not in str(caught.value)
    with pytest.raises(SettingsInvalid, match="needs a package that is not installed"):
        models.resolve("groq:x")
    with pytest.raises(InputInvalid, match="There is no model 'nobody:x'"):
        models.resolve("nobody:x")
    with pytest.raises(InputInvalid, match="There is no model 'x'"):
        models.resolve("x")


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SettingsInvalid, match="must be a list of patterns"):
        Models("demo", "openai:*")
    with pytest.raises(SettingsInvalid, match="no model's name"):
        Models(" ")
    with pytest.raises(SettingsInvalid, match="no model's name"):
        Models("demo", (), {"": LOCAL})


def test_models_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.agent.models._MOST_KEPT", 2)
    endpoints = dict.fromkeys("abc", LOCAL)
    models = Models("a", (), endpoints)
    first = models.resolve("a")
    models.resolve("b")
    assert models.resolve("a") is first
    models.resolve("c")
    assert models.known("b") is None
    assert models.known("a") is first
