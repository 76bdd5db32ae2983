from __future__ import annotations

from tailrace.agent.demo.step import Outcome, call, results


def test_a_call_has_what_is_given() -> None:
    assert call("increments", minimum=5.0, maximum=7.5, year=2024, department=None) == (
        "increments",
        {"minimum": 5, "maximum": 7.5, "year": 2024},
    )
    assert str(call("x", least=5.0).args["least"]) == "5"
    assert call("find", name="name").args == {"name": "name"}


def test_results_are_of_calls_that_did_not_fail() -> None:
    good = Outcome("a", {}, 1)
    rounds = [[Outcome("a", {}, "no", failed=True), Outcome("b", {}, 2)], [good]]
    assert results(rounds, "a") == [good]
    assert results(rounds, "c") == []
