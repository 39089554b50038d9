"""Settings: declared once; a flag beats the environment; a bad value is one line that names where it came from."""

from pathlib import Path

import pytest

from registryd.config import BadSetting, Config, changes, in_force, load, settings
from registryd.core.limits import Limits

#: What the contract says: flag, environment, default.
CONTRACT = [
    ("--host", "REGISTRYD_HOST", "127.0.0.1"),
    ("--port", "REGISTRYD_PORT", 8006),
    ("--heartbeat-timeout", "HEARTBEAT_TIMEOUT", 30.0),
    ("--cleanup-interval", "CLEANUP_INTERVAL", 10.0),
    ("--state-dir", "REGISTRYD_STATE_DIR", ""),
]


@pytest.mark.parametrize(("flag", "env", "default"), CONTRACT)
def test_the_contracts_settings_are_there(flag: str, env: str, default: object) -> None:
    (setting,) = [setting for setting in settings() if setting.flag == flag]

    assert setting.env[0] == env
    assert setting.default == default


def test_nothing_given_is_the_defaults() -> None:
    assert load([], {}) == Config()


def test_every_setting_can_be_given_as_a_flag_and_in_the_environment() -> None:
    samples = {"host": "::1", "http": "tornado", "log_level": "debug", "log_format": "json", "settings": "/dev/null"}
    samples["suspect_share"] = "0.77"
    for setting in settings():
        if setting.name == "state_dir":
            continue
        text = samples.get(setting.name, "77")
        by_flag = load([setting.flag, text], {})
        by_environment = load([], {setting.env[0]: text})

        assert by_flag == by_environment
        assert by_flag != Config(), setting.name


def test_a_bracketed_ipv6_host_and_a_loud_level_are_understood() -> None:
    assert load(["--host", "[::1]", "--log-level", "INFO"], {}) == Config(host="::1", log_level="info")


def test_a_flag_beats_the_environment() -> None:
    assert load(["--port", "7"], {"REGISTRYD_PORT": "8"}).port == 7


def test_an_empty_variable_is_not_set() -> None:
    assert load([], {"REGISTRYD_PORT": "", "HEARTBEAT_TIMEOUT": ""}) == Config()


def test_limits_arrive_in_one_piece() -> None:
    config = load(["--max-body-bytes", "100"], {"REGISTRYD_MAX_TAGS": "3"})

    assert config.limits == Limits(body_bytes=100, tags=3)


@pytest.mark.parametrize(
    ("argv", "environ", "line"),
    [
        (["--port", "x"], {}, "--port: 'x' cannot be used; give a whole number from 0 to 65535"),
        (
            ["--suspect-share", "1.01"],
            {},
            "--suspect-share: '1.01' cannot be used; give a number from 0 to 1; 0 is off",
        ),
        (["--suspect-share", "50%"], {}, "--suspect-share: '50%' cannot be used; give a number from 0 to 1; 0 is off"),
        (["--port", "65536"], {}, "--port: '65536' cannot be used; give a whole number from 0 to 65535"),
        (["--port", "-1"], {}, "--port: '-1' cannot be used; give a whole number from 0 to 65535"),
        (["--port", "\u0661"], {}, "--port: '\u0661' cannot be used; give a whole number from 0 to 65535"),
        ([], {"REGISTRYD_PORT": "1e3"}, "REGISTRYD_PORT: '1e3' cannot be used; give a whole number from 0 to 65535"),
        (
            [],
            {"HEARTBEAT_TIMEOUT": "0"},
            "HEARTBEAT_TIMEOUT: '0' cannot be used; give a number of seconds from 1 to 86400",
        ),
        (
            [],
            {"HEARTBEAT_TIMEOUT": "nan"},
            "HEARTBEAT_TIMEOUT: 'nan' cannot be used; give a number of seconds from 1 to 86400",
        ),
        (
            ["--cleanup-interval", "inf"],
            {},
            "--cleanup-interval: 'inf' cannot be used; give a number of seconds from 0.1 to 3600",
        ),
        (
            ["--host", "*"],
            {},
            "--host: '*' cannot be used; give an address or a host name; 0.0.0.0 or :: is every address there is",
        ),
        (["--log-level", "loud"], {}, "--log-level: 'loud' cannot be used; give one of debug, info, warning, error"),
        (
            [],
            {"STATE_DIRECTORY": "/a:/b"},
            "STATE_DIRECTORY: '/a:/b' cannot be used; give one directory",
        ),
        (["--max-tags", "0"], {}, "--max-tags: '0' cannot be used; give a whole number from 1 to 2147483648"),
        (
            ["--max-ttl-seconds", "10"],
            {},
            "--heartbeat-timeout (30) is over --max-ttl-seconds (10); no lease could be that long",
        ),
        (
            [],
            {"HEARTBEAT_TIMEOUT": "1_0"},
            "HEARTBEAT_TIMEOUT: '1_0' cannot be used; give a number of seconds from 1 to 86400",
        ),
        (["--colour"], {}, "unrecognized arguments: --colour; see registryd --help"),
        (["--port"], {}, "argument --port: expected one argument; see registryd --help"),
        (["--por", "1"], {}, "unrecognized arguments: --por 1; see registryd --help"),
    ],
)
def test_a_bad_setting_is_one_line_that_says_what_to_give(argv: list[str], environ: dict[str, str], line: str) -> None:
    with pytest.raises(BadSetting) as refused:
        load(argv, environ)

    assert str(refused.value) == line


def test_help_names_every_setting_with_its_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(["--help"], {})

    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for setting in settings():
        default = setting.text(setting.default)
        assert f"{setting.flag} {setting.name.upper()}" in text
        assert f"[{', '.join(setting.env)}; default {default}]" in text


def in_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings"
    path.write_text(text)
    return path


def test_a_settings_file_is_read_as_it_stands_in_etc_default(tmp_path: Path) -> None:
    path = in_file(
        tmp_path,
        """
# a comment
; another
REGISTRYD_PORT=7
  HEARTBEAT_TIMEOUT = "8"
REGISTRYD_HOST='::1'
CLEANUP_INTERVAL=
REGISTRYD_MAX_TAGS=3
""",
    )

    config = load(["--settings", str(path)], {})
    assert config == Config(settings=str(path), port=7, heartbeat_timeout=8.0, host="::1", limits=Limits(tags=3))
    assert load([], {"REGISTRYD_SETTINGS": str(path)}) == config


def test_a_flag_beats_the_environment_and_that_the_file(tmp_path: Path) -> None:
    path = in_file(tmp_path, "REGISTRYD_PORT=1\nHEARTBEAT_TIMEOUT=1\nCLEANUP_INTERVAL=1\n")
    environ = {"REGISTRYD_PORT": "2", "HEARTBEAT_TIMEOUT": "2"}

    config = load(["--settings", str(path), "--port", "3"], environ)
    assert (config.port, config.heartbeat_timeout, config.cleanup_interval) == (3, 2, 1)


def test_our_own_name_in_the_file_beats_one_that_only_the_service_manager_gives(tmp_path: Path) -> None:
    path = in_file(tmp_path, "REGISTRYD_KEEP_CONNECTIONS=1\n")

    assert load(["--settings", str(path)], {"FDSTORE": "2"}).keep_connections == 1
    assert load([], {"FDSTORE": "2"}).keep_connections == 2


def test_a_settings_file_must_be_there_unless_it_is_said_that_it_need_not(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"--settings: cannot read .*/none: No such file or directory"):
        load(["--settings", str(tmp_path / "none")], {})
    assert load([f"--settings=-{tmp_path}/none"], {}) == Config(settings=f"-{tmp_path}/none")
    (tmp_path / "some").write_text("REGISTRYD_PORT=7")
    assert load([f"--settings=-{tmp_path}/some"], {}).port == 7


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\nexport HEARTBEAT_TIMEOUT=1", "2: 'export HEARTBEAT_TIMEOUT=1' is no setting; give NAME=value"),
        ("nonsense", "1: 'nonsense' is no setting; give NAME=value"),
        ("HEARTBEAT_TIMEOUTS=1", "1: there is no setting HEARTBEAT_TIMEOUTS; see registryd --help"),
        ("REGISTRYD_SETTINGS=/x", "1: there is no setting REGISTRYD_SETTINGS; see registryd --help"),
        ("HEARTBEAT_TIMEOUT='1", "1: '1 has no closing quote at its end"),
        ("HEARTBEAT_TIMEOUT='1\x1b", r"""1: "'1\x1b" has no closing quote at its end"""),
        ("HEARTBEAT_TIMEOUT='1' # why", "1: '1' # why has no closing quote at its end"),
        (
            "#\nHEARTBEAT_TIMEOUT=soon",
            "2: HEARTBEAT_TIMEOUT: 'soon' cannot be used; give a number of seconds from 1 to 86400",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, line: str) -> None:
    path = in_file(tmp_path, text)
    with pytest.raises(BadSetting) as refused:
        load(["--settings", str(path)], {})

    assert str(refused.value) == f"{path} line {line}"


def test_a_settings_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"--settings: cannot read .*: Is a directory"):
        load(["--settings", str(tmp_path)], {})
    (tmp_path / "latin").write_bytes(b"# \xff\n")
    with pytest.raises(BadSetting, match=r"--settings: cannot read .*: it is not UTF-8"):
        load(["--settings", str(tmp_path / "latin")], {})


def test_what_a_reload_makes_of_new_settings() -> None:
    before = Config()
    after = Config(port=7, heartbeat_timeout=7.5, limits=Limits(tags=3))

    assert [str(change) for change in changes(before, after)] == [
        "--port from 8006 to 7",
        "--heartbeat-timeout from 30 to 7.5",
        "--max-tags from 64 to 3",
    ]
    assert in_force(before, after) == Config(heartbeat_timeout=7.5, limits=Limits(tags=3))
    assert changes(before, before) == []
