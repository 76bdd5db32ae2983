from __future__ import annotations

import pytest
from pydantic_ai import ModelAPIError, ModelHTTPError, exceptions

from tailrace.agent.faults import MAX_SAID, IterationLimit, ModelFailed, clean, told
from tailrace.errors import RunFailed

KEY = "sk-proj-abcdefgh12345678"


def http(kind: type[exceptions.ModelAPIError], status: int, said: str) -> ModelHTTPError:
    body = {"error": {"message": said, "code": "x"}}
    headers = {"retry-after": "7"}
    return ModelHTTPError.for_category(
        kind,  # type: ignore[arg-type]
        status_code=status, model_name="m", body=body, headers=headers,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "says", "do"),
    [
        (http(exceptions.ModelAuthenticationError, 401, f"Incorrect key {KEY}"),
         "The provider of m refuses the key that this server has.", "Correct the key"),
        (http(exceptions.ModelRateLimitError, 429, "Slow down."),
         "The provider of m is asked too often: Slow down.", "Ask again in a while"),
        (http(exceptions.ModelQuotaExceededError, 402, "No credit."),
         "The account of this server with the provider of m has nothing left: No credit.",
         "Add credit"),
        (http(exceptions.ModelNotFoundError, 404, "no such model"),
         "There is no m where this server asks for it: no such model.", "Correct the model's name"),
        (http(exceptions.ModelContextWindowExceededError, 400, "Too long."),
         "The conversation is longer than m can read: Too long.", "Begin a new conversation"),
        (http(exceptions.ModelRequestRejectedError, 400, "Bad schema."),
         "The provider of m refuses the request: Bad schema.", "Ask something else"),
        (http(exceptions.ModelServerError, 500, ""),
         "The provider of m failed: HTTP 500.", "Ask again in a while"),
        (exceptions.ModelConnectionError("m", "Connection error."),
         "The provider of m cannot be reached, or hung up: Connection error.", "See whether"),
        (exceptions.ModelTimeoutError("m", "Request timed out."),
         "m did not answer in time: Request timed out.", "Ask again"),
        (exceptions.ModelRequestTimeout("m", 3.0),
         "m did not answer in time: Request to model 'm' timed out after 3 seconds.", "Ask again"),
        (ModelAPIError("m", "Ended without a finish_reason"),
         "The provider of m failed: Ended without a finish_reason.", "Ask again"),
        (exceptions.IncompleteToolCall("cut"),
         "m used up the tokens it may use while it wrote a call.", "Allow it more"),
        (exceptions.ContentFilterError("no"),
         "The provider of m holds its answer back: no.", "other words"),
        (exceptions.UnexpectedModelBehavior("Empty"),
         "m answered what makes no sense: Empty.", "Ask again"),
        (exceptions.UserError("No deps."), "m cannot be asked: No deps.", "Correct the settings"),
    ],
)  # fmt: skip
def test_what_went_wrong_is_said(error: Exception, says: str, do: str) -> None:
    ours = told(error, "m", 3)
    assert isinstance(ours, ModelFailed)
    assert str(ours) == says
    assert do in ours.fix
    if isinstance(error, ModelHTTPError):
        assert ours.details == {"status_code": error.status_code, "retry_after": 7.0}


def test_the_number_of_iterations_is_one_of_the_limits() -> None:
    ours = told(exceptions.UsageLimitExceeded("request_limit"), "m", 3)
    assert isinstance(ours, IterationLimit)
    assert "had its 3 iterations" in str(ours)


def test_ours_stay_as_they_are() -> None:
    ours = RunFailed("no")
    assert told(ours, "m", 3) is ours
    assert told(ExceptionGroup("all", [ValueError("x"), ours]), "m", 3) is ours


def test_what_nobody_expected_is_told_in_short(caplog: pytest.LogCaptureFixture) -> None:
    ours = told(KeyError("x" * 9000), "m", 3)
    assert str(ours).startswith("The turn failed: 'xxx")
    assert len(str(ours)) < MAX_SAID + 50
    assert "KeyError" in caplog.text
    assert str(told(ValueError(), "m", 3)) == "The turn failed: ValueError."


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {KEY}.",
        f"key={KEY}",
        "Authorization: Bearer eyJhbGciOi.J9",
        "key AIzaSyA1234567890",
        "sk-ant-****abcd is wrong",
        "the word hunter22 itself",
    ],
)
def test_no_key_is_told(text: str) -> None:
    cleaned = clean(text, ["hunter22", ""])
    assert "***" in cleaned
    for secret in (KEY, "eyJhbGciOi", "AIzaSyA", "abcd is", "hunter22"):
        assert secret not in cleaned


def test_what_is_no_key_is_told() -> None:
    said = "Invalid value for 'tools': api_version must be a string, risk-free"
    assert "Invalid value for 'tools'" in clean(said)
    assert "risk-free" in clean(said)
