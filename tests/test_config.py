"""Settings: declared once; a flag beats the environment; a bad value is one line that names where it came from."""

import pytest

from registryd.config import BadSetting, Config, load, settings
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
    samples = {"host": "::1", "http": "tornado", "log_level": "debug", "log_format": "json"}
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
