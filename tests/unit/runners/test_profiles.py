from __future__ import annotations

import re
import shutil
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tailrace.errors import InputInvalid, PathForbidden, SettingsInvalid
from tailrace.runners.forms import KINDS
from tailrace.runners.output import Reading
from tailrace.runners.profiles import PROGRAM, SHIPPED, Profile, Profiles, read


def made(toml: str) -> Profiles:
    return read(tomllib.loads(toml)["profiles"])


def first_found(monkeypatch: pytest.MonkeyPatch, *there: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: name if name in there else None)


# --- the shipped ones ------------------------------------------------------------------

COMMANDS = {
    "python": ("a.py", [sys.executable, "a.py", "-x", "1"]),
    "shell": ("a.sh", ["bash", "a.sh", "-x", "1"]),
    "r": ("a.R", ["Rscript", "a.R", "-x", "1"]),
    "julia": ("a.jl", ["julia", "a.jl", "-x", "1"]),
    "stata": ("a.do", ["stata-mp", "-b", "-q", "do", "a.do", "-x", "1"]),
    PROGRAM: ("a", ["a", "-x", "1"]),
}


def test_all_are_tested() -> None:
    assert [profile.name for profile in SHIPPED] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_of_a_shipped_profile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first_found(monkeypatch)
    file, argv = COMMANDS[name]
    assert Profiles()[name].argv(file, ["-x", "1"]) == argv
    assert Profiles()[name].argv(file, []) == argv[:-2]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_shipped_profile_is_one_a_file_could_describe(name: str) -> None:
    profile = Profiles()[name]
    table = {
        "extensions": list(profile.extensions),
        "command": list(profile.command),
        "output": profile.output,
        "stop": profile.stop,
        "once": profile.once,
        "progress": list(profile.progress),
        "patterns": list(profile.patterns),
        "env": dict(profile.env),
        **{
            key: value
            for key in ("log", "failure", "ignore")
            if (value := getattr(profile, key)) is not None
        },
    }
    assert read({"copy": table})["copy"] == Profile(**{**_fields(profile), "name": "copy"})


def _fields(profile: Profile) -> dict[str, Any]:
    return {name: getattr(profile, name) for name in Profile.__dataclass_fields__}


def test_the_kinds_of_progress_are_those_there_are() -> None:
    for profile in SHIPPED:
        assert set(profile.progress) <= set(KINDS)


def test_stata_is_asked_once_and_says_that_it_failed() -> None:
    stata = Profiles()["stata"]
    assert (stata.signal, stata.once) == (signal.SIGINT, True)
    assert stata.tail("/some/where/my file.do") == "my file.log"
    assert stata.failure is not None
    assert stata.ignore is not None
    reading = Reading(failure=re.compile(stata.failure), ignore=re.compile(stata.ignore))
    reading.feed("stdout", ". display r(601);\n> r(1);\nr(601)\n r(601);\n", 0)
    assert reading.failure is None
    reading.feed("stdout", "r(601);\n", 0)
    assert reading.failure == "r(601);"


def test_the_progress_of_r() -> None:
    [pattern] = Profiles()["r"].patterns
    reading = Reading(patterns=[re.compile(pattern)])
    said = reading.feed("stdout", "\r  |======            |  30%\n", 0)
    assert said == [("progress", {"percent": 30})]


def test_the_others_are_asked_politely() -> None:
    for profile in SHIPPED:
        if profile.name != "stata":
            assert (profile.signal, profile.once) == (signal.SIGTERM, False)
            assert profile.tail("a.py") is None


# --- commands --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "chosen"),
    [(("bash", "sh"), "bash"), (("sh",), "sh"), (("bash",), "bash"), ((), "bash")],
)
def test_a_choice(there: tuple[str, ...], chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first_found(monkeypatch, *there)
    assert Profiles()["shell"].argv("a.sh", []) == [chosen, "a.sh"]


def test_a_choice_is_looked_up_in_a_path(tmp_path: Path) -> None:
    (tmp_path / "sh").touch(0o700)
    assert Profiles()["shell"].argv("a.sh", [], str(tmp_path)) == ["sh", "a.sh"]
    (tmp_path / "bash").touch(0o700)
    assert Profiles()["shell"].argv("a.sh", [], str(tmp_path)) == ["bash", "a.sh"]


@pytest.mark.parametrize("file", ["a|b", "/root/x|sh", "{python}", "{args}", "{file}", "a b;c"])
def test_a_files_name_is_only_a_name(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first_found(monkeypatch, "sh", "b", "bash")
    assert Profiles()[PROGRAM].argv(file, ["-c"]) == [file, "-c"]
    assert Profiles()["shell"].argv(file, ["{file}"]) == ["bash", file, "{file}"]


def test_words_may_have_the_file_in_them() -> None:
    profile = Profile(name="x", command=("x", "--file={file}", "{args}", "-p{python}", "{args}"))
    assert profile.argv("a b", ["1", "2"]) == [
        "x", "--file=a b", "1", "2", f"-p{sys.executable}", "1", "2",
    ]  # fmt: skip


# --- which profile ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.py", "python"),
        ("a.b.py", "python"),
        ("a.PY", "python"),
        ("a.sh", "shell"),
        ("a.R", "r"),
        ("a.r", "r"),
        ("a.jl", "julia"),
        ("a.do", "stata"),
    ],
)
def test_by_its_ending(file: str, name: str) -> None:
    """Whether it is executable does not matter, nor even whether it is there."""
    assert Profiles().of(Path(file)).name == name


def test_a_file_without_an_ending_must_be_executable(tmp_path: Path) -> None:
    file = tmp_path / "tool"
    file.write_text("#!/bin/sh\n")
    with pytest.raises(PathForbidden, match=r"^tool is nothing that can be run: it has no ending"):
        Profiles().of(file)
    assert Profiles().of(file, is_known=True).name == PROGRAM
    file.chmod(0o700)
    assert Profiles().of(file).name == PROGRAM
    file.unlink()
    assert Profiles().of(file, is_known=True).name == PROGRAM


def test_an_ending_nobody_knows(tmp_path: Path) -> None:
    file = tmp_path / "a.exe"
    file.touch(0o700)
    with pytest.raises(PathForbidden, match=r"\.exe is no known ending") as forbidden:
        Profiles().of(file)
    assert ".py, .sh, .R, .r, .jl, .do, or" in forbidden.value.fix
    assert Profiles().of(file, is_known=True).name == PROGRAM


def test_a_name_nobody_knows() -> None:
    with pytest.raises(InputInvalid) as invalid:
        Profiles()["cobol" * 100]
    assert "python, shell, r, julia, stata, program" in invalid.value.fix
    assert len(str(invalid.value)) < 100


# --- settings --------------------------------------------------------------------------


def test_without_settings() -> None:
    assert list(read({})) == list(SHIPPED)


def test_one_of_ones_own() -> None:
    profiles = made(
        """
        [profiles.matlab]
        extensions = [".m"]
        command = ["matlab", "-batch", "run('{file}')"]
        output = "file"
        log = "{stem}.txt"
        stop = "SIGINT"
        once = true
        failure = "^Error"
        ignore = ">>"
        progress = ["percent"]
        patterns = ["at (?P<current>\\\\d+)"]
        env = {A = "1", B = ""}
        """
    )
    assert list(profiles)[:-1] == list(SHIPPED)
    matlab = profiles.of(Path("x.m"))
    assert (
        matlab
        == profiles["matlab"]
        == Profile(
            name="matlab",
            extensions=(".m",),
            command=("matlab", "-batch", "run('{file}')"),
            output="file",
            log="{stem}.txt",
            stop="INT",
            once=True,
            failure="^Error",
            ignore=">>",
            progress=("percent",),
            patterns=(r"at (?P<current>\d+)",),
            env={"A": "1", "B": ""},
        )
    )
    assert matlab.argv("x.m", ["1"]) == ["matlab", "-batch", "run('x.m')"]
    assert matlab.tail("x.m") == "x.txt"
    assert matlab.signal == signal.SIGINT


def test_one_key_of_a_shipped_one() -> None:
    profiles = made('[profiles.stata]\ncommand = ["/opt/stata", "-b", "do", "{file}"]')
    shipped = Profiles()["stata"]
    stata = profiles.of(Path("x.do"))
    assert stata.command == ("/opt/stata", "-b", "do", "{file}")
    assert _fields(stata) == {**_fields(shipped), "command": stata.command}
    assert [profile.name for profile in profiles] == [profile.name for profile in SHIPPED]


def test_a_shipped_one_may_lose_an_ending() -> None:
    profiles = made('[profiles.r]\nextensions = [".R"]')
    assert profiles.of(Path("a.R")).name == "r"
    # Endings are told apart by their case only where both are known.
    with pytest.raises(PathForbidden):
        profiles.of(Path("a.r"))


def test_the_last_one_wins_an_ending() -> None:
    profiles = made(
        """
        [profiles.mypy]
        extensions = [".py"]
        command = ["mypy", "{file}"]
        """
    )
    assert profiles.of(Path("a.py")).name == "mypy"
    assert profiles["python"].extensions == (".py",)


def test_one_without_an_ending_is_had_by_its_name() -> None:
    profiles = made('[profiles.again]\ncommand = ["sh", "{file}"]')
    assert profiles["again"].argv("x", ["1"]) == ["sh", "x"]


BAD: list[tuple[str, Any, str]] = [
    ("extensions", ".py", "must be a list of strings"),
    ("extensions", ["py"], 'must be endings like ".py"'),
    ("extensions", [".p/y"], 'must be endings like ".py"'),
    ("extensions", [".py\n"], 'must be endings like ".py"'),
    ("extensions", [1], "must be a list of strings"),
    ("command", "x {file}", "must be a list of strings"),
    ("command", [], 'must be words, one of them with "{file}"'),
    ("command", ["x"], 'must be words, one of them with "{file}"'),
    ("command", ["x", "{file}", "--all={args}"], 'must have "{args}" as a word of its own'),
    ("env", {"TAILRACE_RUN": "x"}, "must not have TAILRACE_RUN"),
    ("command", ["x\0", "{file}"], "must be a list of strings"),
    ("output", "tty", "must be one of pty, pipe, file"),
    ("output", ["pty"], "must be one of pty, pipe, file"),
    ("output", "file", 'has output = "file", and needs a log = "{stem}.log"'),
    ("log", 1, "must be a file's name, without folders"),
    ("log", "", "must be a file's name, without folders"),
    ("log", "a/b", "must be a file's name, without folders"),
    ("log", "/b", "must be a file's name, without folders"),
    ("log", "..", "must be a file's name, without folders"),
    ("log", ".", "must be a file's name, without folders"),
    ("log", "a\0", "must be a file's name, without folders"),
    ("failure", "(", "is no regular expression: missing )"),
    ("failure", 1, "must be a regular expression"),
    ("ignore", "*", "is no regular expression: nothing to repeat"),
    ("stop", "KILL", "must be one of TERM, INT, HUP, QUIT, USR1, USR2"),
    ("stop", 15, "must be one of TERM, INT, HUP, QUIT, USR1, USR2"),
    ("stop", [], "must be one of TERM, INT, HUP, QUIT, USR1, USR2"),
    ("once", 1, "must be true or false"),
    ("once", "yes", "must be true or false"),
    ("progress", "bar", "must be a list of strings"),
    ("progress", ["bars"], "must be some of bar, step, count, percent"),
    ("patterns", "x", "must be a list of strings"),
    ("patterns", ["x"], "must have a group (?P<current>…) or (?P<percent>…) each"),
    ("patterns", ["(?P<total>x)"], "must have a group (?P<current>…) or (?P<percent>…) each"),
    ("patterns", ["(?P<current>"], "is no regular expression: missing )"),
    ("env", ["A"], "must be a table of strings"),
    ("env", {"A": 1}, "must be a table of strings"),
    ("env", {"": "x"}, "must be a table of strings"),
    ("env", {"A=B": "x"}, "must be a table of strings"),
    ("env", {"A": "x\0"}, "must be a table of strings"),
    ("colour", "red", "is not one of extensions, command, output"),
    ("name", "x", "is not one of extensions, command, output"),
]


@pytest.mark.parametrize(("key", "value", "why"), BAD)
@pytest.mark.parametrize("name", ["mine", "python"])
def test_a_table_with_a_fault(name: str, key: str, value: Any, why: str) -> None:
    with pytest.raises(SettingsInvalid) as invalid:
        read({"fine": {"command": ["x", "{file}"]}, name: {key: value}})
    where = f"profiles.{name}" if why.startswith("has output") else f"profiles.{name}.{key}"
    assert str(invalid.value).startswith(f"{where} {why}")
    assert "command = [" in invalid.value.fix


def test_what_is_no_table() -> None:
    with pytest.raises(SettingsInvalid, match=r"^profiles\.mine must be a table\.\n"):
        made('[profiles]\nmine = ["x"]')


def test_whoever_may_run_anything_runs_what_is_executable(tmp_path: Path) -> None:
    file = tmp_path / "a.exe"
    file.touch(0o600)
    with pytest.raises(PathForbidden):
        Profiles().anyhow(file)
    file.chmod(0o700)
    assert Profiles().anyhow(file).name == PROGRAM
    assert Profiles().anyhow(Path("a.py")).name == "python"
