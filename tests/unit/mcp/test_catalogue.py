import pytest

from tailrace.mcp import catalogue
from tailrace.operations import Operation
from tailrace.protocol.access import CANCEL, RUN, WATCH, Access
from tailrace.run import Run


def operation(name: str) -> Operation[..., Run]:
    async def work(rows: int = 3) -> None:
        """Works."""

    async def start(*_: object) -> Run:
        raise AssertionError

    return Operation(work, start, name=name)


def test_names_are_those_that_mcp_knows() -> None:
    found = catalogue.named([operation("market.news"), operation("über alles"), operation("a b")])
    assert list(found) == ["market.news", "_ber_alles", "a_b"]


def test_names_that_become_alike_stay_apart() -> None:
    found = catalogue.named([operation("a b"), operation("a_b"), operation("a:b")])
    assert [(name, one.name) for name, one in found.items()] == [
        ("a_b", "a b"),
        ("a_b_2", "a_b"),
        ("a_b_3", "a:b"),
    ]


def test_a_long_name_is_cut_and_still_one_of_its_own() -> None:
    found = catalogue.named([operation("x" * 200), operation("x" * 201)])
    assert all(len(name) <= 128 for name in found)
    assert len(found) == 2


@pytest.mark.parametrize(
    ("scopes", "names"),
    [
        ([RUN], ["work"]),
        ([WATCH], ["run_get", "run_events"]),
        ([CANCEL], ["run_cancel"]),
        ([], []),
        ([RUN, WATCH, CANCEL], ["work", "run_get", "run_events", "run_cancel"]),
    ],
)
def test_one_is_offered_what_one_may_call(scopes: list[str], names: list[str]) -> None:
    tools = catalogue.offered({"work": operation("work")}, Access.of("ann", scopes))
    assert [tool.name for tool in tools] == names


def test_an_operation_of_the_same_name_hides_ours() -> None:
    tools = catalogue.offered({"run_get": operation("run_get")}, Access.of("ann"))
    assert [tool.name for tool in tools] == ["run_get", "run_events", "run_cancel"]
    assert tools[0].description == "Works."


def test_a_tool_has_the_operations_schema() -> None:
    tool = catalogue.described("a_b", operation("a b"))
    assert tool.title == "a b"
    assert tool.input_schema["type"] == "object"
    assert tool.input_schema["properties"]["rows"]["default"] == 3
