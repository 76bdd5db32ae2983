"""The tree that is drawn is the tree that is raised."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterator

import pytest

from tailrace import errors
from tailrace.errors import RunCancelled, SettingsInvalid, StateMoved, TailraceError

LINE = re.compile(r"^    ((?:[│ ] {3})*)(?:[├└]── )?([A-Z]\w+)(?: +(\d{3})\b)?")


def drawn() -> dict[str, tuple[str | None, int | None]]:
    """Each class of the docstring's tree, with its parent and the status beside it."""
    tree: dict[str, tuple[str | None, int | None]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        depth = len(found[1]) // 4 + ("── " in line)
        path[depth:] = [found[2]]
        parent = path[depth - 1] if depth else None
        tree[found[2]] = (parent, int(found[3]) if found[3] else None)
    return tree


def classes() -> Iterator[type[BaseException]]:
    for value in vars(errors).values():
        if inspect.isclass(value) and issubclass(value, BaseException):
            yield value


def test_the_drawn_tree_is_the_tree() -> None:
    real = {}
    for error in classes():
        parent = error.__bases__[0]
        real[error.__name__] = parent.__name__ if parent.__module__ == errors.__name__ else None
    assert {name: parent for name, (parent, _) in drawn().items()} == real
    assert len(real) > 25, "the parser finds the tree"


def test_the_drawn_statuses_are_the_statuses() -> None:
    for name, (_, status) in drawn().items():
        if status is not None:
            assert getattr(errors, name).status == status, name


@pytest.mark.parametrize("error", [e for e in classes() if issubclass(e, TailraceError)])
def test_every_error_says_what_a_program_and_a_person_need(error: type[TailraceError]) -> None:
    assert error.__doc__
    assert 400 <= error.status < 600
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.code)
    assert error.title
    assert not error.title.endswith(".")


def test_leaves_have_codes_of_their_own() -> None:
    found = [error for error in classes() if issubclass(error, TailraceError)]
    codes = [error.code for error in found]
    assert len(set(codes)) == len(codes)


def test_an_error_carries_its_fix_and_details() -> None:
    error = errors.KeyReused("Used before.", fix="Take another.", key="k")
    assert str(error) == "Used before."
    assert (error.fix, error.details) == ("Take another.", {"key": "k"})
    assert errors.RunUnknown("Gone.").details == {}


def test_some_errors_have_headers() -> None:
    assert errors.RunUnknown("Gone.").headers == {}
    assert errors.Unauthorized("Who?").headers["www-authenticate"].startswith("Bearer ")
    error = errors.TooManyRequests("Later.", fix="Wait.", retry_after=7)
    assert (error.fix, error.headers) == ("Wait.", {"retry-after": "7"})
    error.limits = {"ratelimit": '"run";r=0;t=7'}
    assert error.headers == {"retry-after": "7", "ratelimit": '"run";r=0;t=7'}
    assert errors.TooManyRequests("Later.", retry_after=-1).headers == {"retry-after": "1"}


def test_a_moved_state_is_named() -> None:
    error = StateMoved("It is completed.", state="completed")
    assert error.state == "completed"
    assert error.details == {"state": "completed"}
    assert error.fix


def test_the_wish_to_stop_passes_every_except_exception() -> None:
    assert issubclass(RunCancelled, BaseException)
    assert not issubclass(RunCancelled, Exception)


def test_a_traceback_says_what_to_do() -> None:
    told = traceback.format_exception(SettingsInvalid("It cannot be.", fix="Do that."))
    assert "".join(told).endswith("It cannot be.\nDo that.\n")
    assert not hasattr(SettingsInvalid("It cannot be."), "__notes__")
