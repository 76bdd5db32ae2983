from pathlib import Path
from typing import Any

import limits
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.server import values

HERE = Path("/somewhere")


# ------------------------------------------------------------------ networks


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("127.0.0.1", ("127.0.0.1",)),
        ("10.0.0.0/8, ::1", ("10.0.0.0/8", "::1")),
        (["10.0.0.7/32", "FD00::/8"], ("10.0.0.7/32", "fd00::/8")),
        (("192.168.0.0/255.255.0.0",), ("192.168.0.0/16",)),
        ("0:0::1", ("::1",)),
    ],
)
def test_networks(said: Any, meant: tuple[str, ...]) -> None:
    assert values.networks(said, HERE) == meant


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("*", "could pass for anybody"),
        ("0.0.0.0/0", "could pass for anybody"),
        ("::/0", "could pass for anybody"),
        (["127.0.0.1", "0.0.0.0/0.0.0.0"], "could pass for anybody"),
        ("::ffff:0:0/96", "an IPv4 address as such"),
        ("::ffff:10.0.0.7", "an IPv4 address as such"),
        ("10.0.0.1/8", "has host bits set"),
        ("proxy", "an address or a network"),
        ("10.0.0.1:80", "an address or a network"),
        ("127.0.0.1/33", "an address or a network"),
        ("", "a name, or a list of names"),
        (4, "a name, or a list of names"),
        ([4], "a name, or a list of names"),
    ],
)
def test_networks_that_are_refused(said: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        values.networks(said, HERE)


# ------------------------------------------------------------------ rates


@pytest.mark.parametrize(
    ("said", "amount", "seconds"),
    [
        ("10/minute", 10, 60),
        (" 10 / minute ", 10, 60),
        ("10 per minute", 10, 60),
        ("5/10 seconds", 5, 10),
        ("1/2hours", 1, 7200),
        ("100/Day", 100, 86_400),
        ("999999999/second", 999_999_999, 1),
        ("1/month", 1, 30 * 86_400),
        ("1/years", 1, 360 * 86_400),
    ],
)
def test_rates_mean_what_they_say(said: str, amount: int, seconds: int) -> None:
    meant = limits.parse(values.rate(said, HERE))
    assert (meant.amount, meant.get_expiry()) == (amount, seconds)


def test_a_rate_that_is_lifted() -> None:
    assert values.rate(" None ", HERE) == values.LIFTED == "none"


@pytest.mark.parametrize(
    "said",
    [
        "", "10", "minute", "0/minute", "-1/minute", "1.5/minute", "10/0 minutes", "10/fortnight",
        "10/minute;1/second", "10/minute,1/second", "10/minute 1/second", "٣/minute",
        "10000000000/second", "10perminutes per", 10, None, True, ["10/minute"],
    ],
)  # fmt: skip
def test_rates_that_are_none(said: Any) -> None:
    with pytest.raises(ValueError, match="a rate like 10/minute, or none"):
        values.rate(said, HERE)


@given(
    st.from_regex(r"\A\s*[0-9]{1,3}\s*(/|per)\s*[0-9]{0,2}\s*[a-z]{0,7}\Z")
    | st.tuples(
        st.integers(0, 200).map(str),
        st.sampled_from(["/", " per ", "per", " / ", "//"]),
        st.sampled_from(["", "1", "30 ", "0"]),
        st.sampled_from(["second", "minutes", "hour", "DAY", "month", "year", "week", "days "]),
    ).map("".join)
)
def test_what_passes_is_understood(said: str) -> None:
    try:
        passed = values.rate(said, HERE)
    except ValueError:
        return
    assert limits.parse(passed).amount > 0
    assert len(limits.parse_many(passed)) == 1


def test_rates_of_scopes() -> None:
    told = ("run=60/minute", " watch = none ", "run=1/hour")
    assert values.rates(told, HERE) == {"run": "1/hour", "watch": "none"}
    assert values.rates("run=60/minute,emit=5/second", HERE) == {
        "run": "60/minute",
        "emit": "5/second",
    }


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("run", "a rate like"),
        ("60/minute", "SCOPE=RATE, with a scope of run, watch, cancel, emit, admin"),
        ("runs=60/minute", "SCOPE=RATE"),
        ("=60/minute", "SCOPE=RATE"),
        ("run=60/minute,", "a name"),
        ("run=x", "a rate like"),
        (4, "a name"),
    ],
)
def test_rates_of_scopes_that_are_refused(said: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        values.rates(said, HERE)


# ------------------------------------------------------------------ files and variables


def test_where_lines_go() -> None:
    assert values.file_or_stderr("audit.jsonl", HERE) == HERE / "audit.jsonl"
    assert values.file_or_stderr("-", HERE) == Path("-")
    with pytest.raises(ValueError, match="a file"):
        values.file_or_stderr("", HERE)


@pytest.mark.parametrize("said", ["API_TOKEN", ["API_TOKEN"], ("API_TOKEN",), " API_TOKEN "])
def test_variables(said: Any) -> None:
    assert values.variables(said, HERE) == ("API_TOKEN",)


@pytest.mark.parametrize("said", ["4X", "A-B", "A=B", "$A", "Ä", "A B", "A\n\x00", "A,", 4, [4]])
def test_variables_that_are_none(said: Any) -> None:
    with pytest.raises(ValueError, match="name") as caught:
        values.variables(said, HERE)
    assert str(said) not in str(caught.value) or said == 4


@pytest.mark.parametrize(
    ("read", "said", "meant"),
    [
        (values.host, "[::1]", "::1"),
        (values.port, "80", 80),
        (values.log, "x.db", "/somewhere/x.db"),
        (values.log, "memory:", "memory:"),
        (values.file, "/x", Path("/x")),
        (values.names, " a ,b", ("a", "b")),
        (values.app, "m:a", "m:a"),
        (values.seconds(5), "4.5", 4.5),
        (values.switch, "YES", True),
        (values.switch, False, False),
        (values.count, "12", 12),
    ],
)
def test_what_is_said_in_text(read: Any, said: Any, meant: Any) -> None:
    assert read(said, HERE) == meant


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (values.host, " "), (values.port, "80a"), (values.log, ""), (values.file, "a\0"),
        (values.names, "a,,b"), (values.app, "m:"), (values.app, ":a"), (values.seconds(5), "6"),
        (values.seconds(5), "nan"), (values.switch, "maybe"), (values.count, "0"),
        (values.count, "٣"), (values.count, 2**63), (values.roots, "/no/such/folder"),
    ],
)  # fmt: skip
def test_what_is_none(read: Any, said: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read(said, HERE)
