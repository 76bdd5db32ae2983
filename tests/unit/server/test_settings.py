import dataclasses
from pathlib import Path

import pytest

from tailrace.errors import SettingsInvalid
from tailrace.eventlog.places import default_log
from tailrace.mcp.address import Address
from tailrace.server.issuer import IssuerSettings
from tailrace.server.settings import Settings, load


def written(folder: Path, text: str) -> Path:
    path = folder / "tailrace.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults() -> None:
    settings = load({}, {})
    assert settings == Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 4000)
    assert settings.log == str(default_log())
    assert settings.allow_root == ()
    assert settings.config is None


def test_they_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    config = written(tmp_path, '[server]\nhost = "::1"\nport = 1\ngrace = 7\n')
    env = {"TAILRACE_PORT": "2", "TAILRACE_GRACE": "8", "TAILRACE_CONFIG": str(config)}
    settings = load({"grace": 9.0, "port": None, "allow_root": ()}, env)
    assert (settings.host, settings.port, settings.grace) == ("::1", 2, 9.0)
    assert settings.config == config


def test_a_config_flag_wins_over_the_variable(tmp_path: Path) -> None:
    config = written(tmp_path, "[server]\nport = 1\n")
    settings = load({"config": str(config)}, {"TAILRACE_CONFIG": str(tmp_path / "none.toml")})
    assert settings.port == 1


def test_an_empty_variable_says_nothing() -> None:
    assert load({}, {"TAILRACE_PORT": "", "TAILRACE_CONFIG": ""}) == Settings()


def test_a_file_may_be_empty(tmp_path: Path) -> None:
    config = written(tmp_path, "")
    assert load({"config": config}, {}) == Settings(config=config)


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    config = written(tmp_path, '[server]\nlog = "runs.db"\nallow_root = ["scripts"]\n')
    settings = load({"config": config}, {})
    assert settings.log == str(tmp_path / "runs.db")
    assert settings.allow_root == ((tmp_path / "scripts").resolve(),)


def test_a_root_may_stand_alone(tmp_path: Path) -> None:
    config = written(tmp_path, f'[server]\nallow_root = "{tmp_path}"\n')
    assert load({"config": config}, {}).allow_root == (tmp_path.resolve(),)


def test_several_roots_in_the_environment(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    roots = load({}, {"TAILRACE_ALLOW_ROOT": f"{tmp_path / 'a'}:{tmp_path / 'b'}"}).allow_root
    assert [root.name for root in roots] == ["a", "b"]


@pytest.mark.parametrize("place", ["memory:", "sqlite:x.db", "redis://h/0"])
def test_a_log_that_is_no_path_stays_as_it_is(place: str, tmp_path: Path) -> None:
    config = written(tmp_path, f'[server]\nlog = "{place}"\n')
    assert load({"config": config}, {}).log == place


def test_an_unknown_key_is_named_with_its_file_and_the_known_ones(tmp_path: Path) -> None:
    config = written(tmp_path, "[server]\nprot = 1\n")
    with pytest.raises(SettingsInvalid) as caught:
        load({"config": config}, {})
    assert "'prot'" in str(caught.value)
    assert str(config) in str(caught.value)
    assert caught.value.fix == (
        "The settings are host, port, log, allow_root, grace, app, keys, allow_host, allow_origin, "
        "trusted_proxy, audit, mask."
    )


@pytest.mark.parametrize(
    "text",
    [
        "[sever]\nport = 1\n", "port = 1\n", "server = 4\n", "profiles = []\n", "[[scripts]]\n",
        "jwt = 4\n", "limits = 4\n", "['limits.keyed']\nrun = '1/day'\n",
    ],
)  # fmt: skip
def test_another_table_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"nothing that is read") as caught:
        load({"config": written(tmp_path, text)}, {})
    assert "[server]" in caught.value.fix
    assert "[scripts]" in caught.value.fix


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="No such file"):
        load({"config": str(tmp_path / "none.toml")}, {})


@pytest.mark.parametrize("content", [b"[server", b'[server]\nhost = "\xff"\n'])
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsInvalid, match="is not TOML"):
        load({"config": path}, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", ""), ("host", 4), ("host", "a\nb"),
        ("port", -1), ("port", 65_536), ("port", "x"), ("port", True), ("port", 1.5),
        ("port", "99999999999999999999"),
        ("log", 4), ("log", ""), ("log", "a\0b"),
        ("allow_root", 4), ("allow_root", [""]), ("allow_root", ["/no/such/folder"]),
        ("grace", 0), ("grace", -1), ("grace", "x"), ("grace", True), ("grace", "nan"),
        ("grace", 1e9), ("grace", 10**400),
        ("at_once", 0), ("at_once", -1), ("at_once", "x"), ("at_once", True), ("at_once", 1.5),
    ],
)  # fmt: skip
def test_values_without_sense_are_refused(name: str, value: object) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load({name: value}, {})
    assert str(caught.value).startswith(f"--{name.replace('_', '-')} must be ")
    assert caught.value.fix


def test_where_a_wrong_value_was_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"^TAILRACE_PORT must be a whole number"):
        load({}, {"TAILRACE_PORT": "http"})
    config = written(tmp_path, "[server]\nport = true\n")
    with pytest.raises(SettingsInvalid, match=f"^port in {config} must be a whole number"):
        load({"config": config}, {})


def test_a_refused_log_is_not_repeated() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load({"log": "redis://user:secret\0@h/0"}, {})
    assert "secret" not in str(caught.value)


def test_an_address_may_be_in_brackets() -> None:
    assert load({"host": "[::1]"}, {}).host == "::1"


# ------------------------------------------------------------------ scripts

SCRIPTS = """\
[scripts]
survives = true
at_once = 3
timeout = 60
output_bytes = 1000
cpu_seconds = 20
file_bytes = 3000
processes = 40
"""


def test_scripts_in_a_file(tmp_path: Path) -> None:
    settings = load({"config": written(tmp_path, SCRIPTS)}, {})
    assert (settings.survives, settings.at_once, settings.timeout) == (True, 3, 60.0)
    assert settings.limits == {
        "output_bytes": 1000, "cpu_seconds": 20, "file_bytes": 3000, "processes": 40,
    }  # fmt: skip


def test_scripts_by_default() -> None:
    settings = Settings()
    assert (settings.survives, settings.at_once, settings.timeout) == (False, 10, None)
    assert (settings.limits, settings.profiles) == ({}, None)


def test_flags_win_for_scripts_as_well(tmp_path: Path) -> None:
    config = written(tmp_path, SCRIPTS)
    env = {"TAILRACE_SURVIVE": "0", "TAILRACE_AT_ONCE": "4"}
    settings = load({"config": config}, env)
    assert (settings.survives, settings.at_once) == (False, 4)
    settings = load({"config": config, "survives": True, "at_once": 5}, env)
    assert (settings.survives, settings.at_once) == (True, 5)


@pytest.mark.parametrize(
    ("said", "meant"), [("1", True), ("true", True), ("Yes", True), ("0", False), ("off", False)]
)
def test_a_switch_in_the_environment(said: str, meant: bool) -> None:
    assert load({}, {"TAILRACE_SURVIVE": said}).survives is meant


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"TAILRACE_SURVIVE": "perhaps"}, "TAILRACE_SURVIVE must be true or false."),
        ({"TAILRACE_AT_ONCE": "0"}, "TAILRACE_AT_ONCE must be a whole number, 1 or more."),
    ],
)
def test_a_wrong_variable(env: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load({}, env)
    assert str(caught.value) == said
    assert caught.value.fix


def test_other_settings_of_scripts_stand_in_a_file_only() -> None:
    assert load({}, {"TAILRACE_TIMEOUT": "1", "TAILRACE_PROCESSES": "1"}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("survives", "1.0"), ("survives", "[]"), ("survives", '"perhaps"'),
        ("at_once", "0"), ("at_once", "true"),
        ("timeout", "0"), ("timeout", "inf"), ("timeout", "false"), ("timeout", "1e9"),
        ("output_bytes", "0"), ("cpu_seconds", "1.5"), ("file_bytes", "-1"),
        ("processes", "9223372036854775808"),
    ],
)  # fmt: skip
def test_scripts_without_sense_are_refused(tmp_path: Path, name: str, value: str) -> None:
    config = written(tmp_path, f"[scripts]\n{name} = {value}\n")
    with pytest.raises(SettingsInvalid) as caught:
        load({"config": config}, {})
    assert str(caught.value).startswith(f"scripts.{name} in {config} must be ")
    assert caught.value.fix


def test_an_unknown_key_of_scripts(tmp_path: Path) -> None:
    config = written(tmp_path, "[scripts]\nsurvive = true\n")
    with pytest.raises(SettingsInvalid) as caught:
        load({"config": config}, {})
    assert str(caught.value) == f"'survive' in {config} is not a setting of [scripts]."
    assert caught.value.fix == (
        "The settings are survives, at_once, timeout, output_bytes, cpu_seconds, file_bytes, "
        "processes."
    )


def test_profiles(tmp_path: Path) -> None:
    config = written(
        tmp_path, '[profiles.lua]\nextensions = [".lua"]\ncommand = ["lua", "{file}", "{args}"]\n'
    )
    known = load({"config": config}, {}).profiles
    assert known is not None
    assert known.of(Path("x.lua")).argv("x.lua", ["a"]) == ["lua", "x.lua", "a"]
    assert known.of(Path("x.py")).name == "python"


def test_what_is_wrong_with_a_profile_is_said_with_its_file(tmp_path: Path) -> None:
    config = written(tmp_path, "[profiles.lua]\ncommand = 4\n")
    with pytest.raises(SettingsInvalid) as caught:
        load({"config": config}, {})
    assert str(caught.value) == f"In {config}, profiles.lua.command must be a list of strings."
    assert "A profile looks like" in caught.value.fix


# ------------------------------------------------------------------ somebody's own app


@pytest.mark.parametrize(
    "given",
    [
        {"log": "x.db"}, {"allow_root": ("/",)}, {"survives": True}, {"at_once": 3},
        {"audit": "-"}, {"mask": ("X",)}, {"allow_host": ("x",)},
    ],
    ids=lambda given: next(iter(given)),
)  # fmt: skip
def test_what_is_not_for_an_app_of_one_s_own(given: dict[str, object]) -> None:
    (name,) = given
    with pytest.raises(SettingsInvalid, match=f"^{name} is for Tailrace's own app, and m:a is"):
        load({"app": "m:a", **given}, {})


@pytest.mark.parametrize("text", ["[scripts]\nprocesses = 4\n", "[profiles.x]\ncommand=['{file}']"])
def test_nor_is_what_a_file_says_of_scripts(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsInvalid, match="is for Tailrace's own app"):
        load({"app": "m:a", "config": written(tmp_path, text)}, {})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[limits]\nrun = 'none'\n", "limits"),
        ("[limits]\nstreams = 4\n", "limits"),
        ("[limits.keyed]\nrun = 'none'\n", "limits"),
        ("[jwt]\nissuer = 'x'\naudience = 'y'\njwks = 'z'\n", "jwt"),
    ],
)
def test_nor_who_may_do_how_much(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(SettingsInvalid, match=f"^{name} is for Tailrace's own app"):
        load({"app": "m:a", "config": written(tmp_path, text)}, {})


def test_what_is() -> None:
    flags = {"app": "m:a", "host": "::1", "port": 0, "grace": 1.0, "trusted_proxy": ("10.0.0.7",)}
    settings = load(flags, {})
    assert (settings.app, settings.grace) == ("m:a", 1.0)
    assert settings.trusted_proxy == ("10.0.0.7",)


def test_who_is_let_in(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        '[server]\nkeys = "k.json"\nallow_host = ["a.example"]\nallow_origin = ["https://b"]\n',
    )
    found = load({"config": config}, {})
    assert (found.keys, found.no_auth) == (tmp_path / "k.json", False)
    assert (found.allow_host, found.allow_origin) == (("a.example",), ("https://b",))
    env = {"TAILRACE_KEYS": "/k", "TAILRACE_ALLOW_HOST": "a, b", "TAILRACE_NO_AUTH": "1"}
    found = load({"allow_origin": ("https://c", "https://d")}, env)
    assert (found.keys, found.no_auth) == (Path("/k"), True)
    assert (found.allow_host, found.allow_origin) == (("a", "b"), ("https://c", "https://d"))


@pytest.mark.parametrize("line", ["keys = 3", 'keys = ""', "allow_host = 3", 'allow_origin = [""]'])
def test_names_and_files_that_are_none(tmp_path: Path, line: str) -> None:
    with pytest.raises(SettingsInvalid, match=line.split(maxsplit=1)[0]):
        load({"config": written(tmp_path, f"[server]\n{line}\n")}, {})


# ------------------------------------------------------------------ who may do how much

LIMITS = """\
[limits]
run = "10/minute"
watch = "None"
streams = 1
streams_each = 2
watchers = 3
run_bytes = 4
half_open = 5

[limits.keyed]
run = "20 per hour"
admin = "1/second"
"""


def test_limits_in_a_file(tmp_path: Path) -> None:
    settings = load({"config": written(tmp_path, LIMITS)}, {})
    assert settings.rates == {"run": "10/minute", "watch": "none"}
    assert settings.keyed_rates == {"run": "20 per hour", "admin": "1/second"}
    assert settings.caps == {
        "streams": 1, "streams_each": 2, "watchers": 3, "run_bytes": 4, "half_open": 5,
    }  # fmt: skip
    assert settings.limits == {}


def test_only_what_was_said_is_there() -> None:
    settings = Settings()
    assert (settings.rates, settings.keyed_rates, settings.caps) == ({}, {}, {})
    assert (settings.jwt, settings.trusted_proxy) == (None, ())
    assert (settings.audit, settings.mask) == (None, ())


def test_to_change_one_rate_is_not_to_forget_the_others(tmp_path: Path) -> None:
    config = written(tmp_path, LIMITS)
    env = {"TAILRACE_RATE": "run=2/minute,cancel=2/day"}
    flags = {"config": config, "rates": ("run=3/minute", "emit=none")}
    assert load(flags, env).rates == {
        "run": "3/minute", "watch": "none", "cancel": "2/day", "emit": "none",
    }  # fmt: skip
    assert load({"config": config}, env).rates["run"] == "2/minute"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits]\nrun = 'x'\n", "limits.run in {} must be a rate like 10/minute, or none."),
        ("[limits]\nrun = 10\n", "limits.run in {} must be a rate like 10/minute, or none."),
        ("[limits]\nstreams = 0\n", "limits.streams in {} must be a whole number, 1 or more."),
        ("[limits]\nruns = 'none'\n", "'runs' in {} is not a setting of [limits]."),
        ("[limits.keyed]\nrun = '1'\n",
         "limits.keyed.run in {} must be a rate like 10/minute, or none."),
        ("[limits.keyed]\nstreams = 4\n", "'streams' in {} is not a setting of [limits.keyed]."),
        ("[limits]\nkeyed = 4\n", "'limits.keyed' in {} is no table."),
        ("[limits.others]\nrun = '1/day'\n", "'others' in {} is not a setting of [limits]."),
    ],
)  # fmt: skip
def test_limits_without_sense_are_refused(tmp_path: Path, text: str, said: str) -> None:
    config = written(tmp_path, text)
    with pytest.raises(SettingsInvalid) as caught:
        load({"config": config}, {})
    assert str(caught.value) == said.format(config)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("flags", "env", "said"),
    [
        ({"rates": ("run",)}, {}, "--rate must be a rate like"),
        ({}, {"TAILRACE_RATE": "x=1/day"}, "TAILRACE_RATE must be SCOPE=RATE"),
        (
            {"trusted_proxy": ("*",)},
            {},
            "--trusted-proxy must be where a proxy is, and not everywhere: ",
        ),
        (
            {},
            {"TAILRACE_TRUSTED_PROXY": "::/0"},
            "TAILRACE_TRUSTED_PROXY must be where a proxy is, and not",
        ),
        ({"mask": ("a-b",)}, {}, "--mask must be names of environment variables"),
        ({}, {"TAILRACE_MASK": "A,,B"}, "TAILRACE_MASK must be a name"),
        ({"audit": "a\0"}, {}, "--audit must be a file"),
    ],
)
def test_what_is_wrong_with_a_flag_or_a_variable(
    flags: dict[str, object], env: dict[str, str], said: str
) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load(flags, env)
    assert str(caught.value).startswith(said)
    assert caught.value.fix


def test_proxies_audit_and_masks(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        '[server]\ntrusted_proxy = "10.1.0.0/16"\naudit = "a.jsonl"\nmask = ["A", "B"]\n',
    )
    found = load({"config": config}, {})
    assert found.trusted_proxy == ("10.1.0.0/16",)
    assert (found.audit, found.mask) == (tmp_path / "a.jsonl", ("A", "B"))
    env = {
        "TAILRACE_TRUSTED_PROXY": "127.0.0.1,::1", "TAILRACE_AUDIT": "-", "TAILRACE_MASK": "C",
    }  # fmt: skip
    found = load({"config": config}, env)
    assert found.trusted_proxy == ("127.0.0.1", "::1")
    assert (found.audit, found.mask) == (Path("-"), ("C",))
    found = load({"trusted_proxy": ("10.0.0.7",), "audit": "b", "mask": ("D", "E")}, env)
    assert found.trusted_proxy == ("10.0.0.7",)
    assert (found.audit, found.mask) == (Path("b"), ("D", "E"))


def test_an_issuer_stands_in_a_file_only(tmp_path: Path) -> None:
    text = '[jwt]\nissuer = "https://i"\naudience = "t"\njwks = "keys.json"\nleeway = 5\n'
    found = load({"config": written(tmp_path, text)}, {"TAILRACE_JWT": "x"}).jwt
    assert found == IssuerSettings(
        issuer="https://i", audience="t", jwks=tmp_path / "keys.json", leeway=5.0
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[jwt]\n", "In {}, jwt needs issuer."),
        ("[jwt]\nsecret = 's3cret'\n", "In {}, jwt.secret is not one of issuer, audience, jwks, "),
        ("[jwt]\nissuer = 4\n", "In {}, jwt.issuer must be a text."),
    ],
)
def test_what_is_wrong_with_an_issuer_is_said_with_its_file(
    tmp_path: Path, text: str, said: str
) -> None:
    config = written(tmp_path, text)
    with pytest.raises(SettingsInvalid) as caught:
        load({"config": config}, {})
    assert str(caught.value).startswith(said.format(config))
    assert "s3cret" not in str(caught.value)
    assert "audience =" in caught.value.fix


def test_upstreams_stand_in_a_file_only(tmp_path: Path) -> None:
    text = (
        '[mcp.upstreams.market]\nurl = "http://127.0.0.1:4100/mcp"\nkey_env = "MARKET_KEY"\n'
        '[mcp.upstreams.files]\ncommand = ["files", "."]\n'
    )
    found = load({"config": written(tmp_path, text)}, {"TAILRACE_MCP": "x"}).mcp
    assert found == {
        "market": Address(name="market", url="http://127.0.0.1:4100/mcp", key_env="MARKET_KEY"),
        "files": Address(name="files", command=("files", "."), cwd=tmp_path),
    }
    assert load({}, {}).mcp == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mcp]\nserver = 1\n", "In {}, mcp.server is no table of upstreams."),
        ("[mcp.upstreams]\nmarket = 1\n", "In {}, mcp.upstreams.market is no table."),
        ("[mcp.upstreams.m]\nurl = 's3cret'\n", "In {}, mcp.upstreams.m.url must be the address"),
        ("[mcp.upstreams.m]\nkey = 's3cret'\n", "In {}, mcp.upstreams.m.key is not one of url"),
    ],
)
def test_what_is_wrong_with_an_upstream_is_said_with_its_file(
    tmp_path: Path, text: str, said: str
) -> None:
    config = written(tmp_path, text)
    with pytest.raises(SettingsInvalid) as caught:
        load({"config": config}, {})
    assert str(caught.value).startswith(said.format(config))
    assert "s3cret" not in str(caught.value)
    assert "[mcp.upstreams.market]" in caught.value.fix
