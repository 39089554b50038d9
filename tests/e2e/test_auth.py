"""Access control of a real daemon: tokens are made, shown, taken back by a reload, and never seen anywhere else."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from process import Process, RunningDaemon, StartDaemon
from readme import Step, block, steps

from registryd.auth import Access, read

pytestmark = pytest.mark.e2e


def token_new(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "registryd", "token", "new", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


def a_token(path: Path, name: str, *allow: str) -> str:
    ran = token_new("--name", name, "--auth-file", str(path), *(part for right in allow for part in ("--allow", right)))
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.removesuffix("\n")


def status_of(
    daemon: RunningDaemon, token: str, method: str = "GET", path: str = "/services", body: bytes = b""
) -> int:
    connection = http.client.HTTPConnection(daemon.url.removeprefix("http://"), timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Authorization": f"Bearer {token}"})
        return connection.getresponse().status


def test_a_token_is_let_in_and_taken_back_by_a_reload(start_daemon: StartDaemon, tmp_path: Path) -> None:
    path = tmp_path / "auth.toml"
    first = a_token(path, "first", "read")
    daemon = start_daemon("--auth-file", str(path))
    assert daemon.fetch("/livez").status == 200
    assert daemon.fetch("/services").status == 401
    assert status_of(daemon, first) == 200

    second = a_token(path, "second", "read")
    assert status_of(daemon, second) == 401
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_line("INFO reloaded: no setting has changed; tokens, read anew: 2")
    assert (status_of(daemon, first), status_of(daemon, second)) == (200, 200)

    text = path.read_text()
    path.write_text(text[text.index('[tokens."second"]') :])
    with Process([sys.executable, "-m", "registryd", "--reload", str(daemon.popen.pid)]) as reload:
        assert (reload.wait(), reload.lines) == (0, ["reloaded: no setting has changed; tokens, read anew: 1"])
    assert (status_of(daemon, first), status_of(daemon, second)) == (401, 200)

    path.write_text("[broken")
    with Process([sys.executable, "-m", "registryd", "--reload", str(daemon.popen.pid)]) as reload:
        assert reload.wait() == 1
    assert reload.lines[0].startswith(
        f"registryd: reload refused, nothing has changed: the auth file {path} is no TOML"
    )
    assert (status_of(daemon, first), status_of(daemon, second)) == (401, 200), "those who were let in still are"
    assert first not in daemon.output
    assert second not in daemon.output


def test_a_refusal_is_a_line_with_the_peer_and_masses_are_summed_up(start_daemon: StartDaemon, tmp_path: Path) -> None:
    path = tmp_path / "auth.toml"
    a_token(path, "a", "read")
    daemon = start_daemon("--auth-file", str(path))
    for _ in range(300):
        assert daemon.fetch("/status").status == 401
    daemon.wait_for_line("WARNING refused peer=127.0.0.1 request=GET /status: this registry needs a token: send it as")
    daemon.signal(signal.SIGTERM)
    daemon.wait()

    lines = [line for line in daemon.lines if " WARNING refused " in line]
    assert len(lines) < 300
    told = sum("peer=" in line for line in lines)
    summed = sum(int(line.partition("count=")[2].split()[0]) for line in lines if "count=" in line)
    assert told + summed == 300


def test_an_owner_is_remembered_over_a_kill(start_daemon: StartDaemon, tmp_path: Path) -> None:
    path = tmp_path / "auth.toml"
    tokens = {name: a_token(path, name, "register", "read") for name in ("owner", "other")}
    for life in range(2):
        daemon = start_daemon("--auth-file", str(path), "--state-dir", str(tmp_path))
        body = b'{"service_name": "users", "base_url": "http://h", "instance_id": "u1"}'
        names = ["owner", "other"] if life == 0 else ["other", "owner"]
        statuses = [status_of(daemon, tokens[name], "POST", "/register", body) for name in names]
        assert statuses == [[200, 403], [403, 200]][life]
        daemon.signal(signal.SIGKILL)
        daemon.wait()


def test_a_reload_does_not_open_what_was_closed(start_daemon: StartDaemon, tmp_path: Path) -> None:
    a_token(tmp_path / "auth.toml", "a", "read")
    settings = tmp_path / "settings"
    settings.write_text(f"REGISTRYD_AUTH_FILE={tmp_path}/auth.toml\n")
    daemon = start_daemon(f"--settings=-{settings}")
    settings.unlink()
    with Process([sys.executable, "-m", "registryd", "--reload", str(daemon.popen.pid)]) as reload:
        assert reload.wait() == 1
    assert "nothing has changed: access control and TLS end with a restart only: --auth-file or" in reload.output
    assert daemon.fetch("/services").status == 401


def test_tokens_that_are_made_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "auth.toml"
    link.symlink_to(tmp_path / "real/auth.toml")
    a_token(link, "first", "read")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: a_token(link, f"t{n}", "read"), range(8)))

    assert link.is_symlink()
    callers = Access(read(str(link)))
    assert [callers.caller(f"Bearer {token}").name for token in made] == [f"t{n}" for n in range(8)]
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["auth.toml"]


def test_the_client_shows_its_token(start_daemon: StartDaemon, tmp_path: Path) -> None:
    path = tmp_path / "auth.toml"
    token = a_token(path, "timelines-svc", "register")
    daemon = start_daemon("--auth-file", str(path))
    program = block("The client", "python", 1)

    def run(token: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "REGISTRY_URL": daemon.url, "REGISTRY_TOKEN": token}
        return subprocess.run(
            [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False, timeout=20
        )

    ran = run(token)
    assert (ran.returncode, ran.stderr) == (0, "")
    daemon.wait_for_line("deregistered service=timelines .* reason='its owner asked for it'")
    for bad in ("", "rgd_x"):
        ran = run(bad)
        assert ran.returncode == 1
        assert "Refused: the registry refuses this registration: this " in ran.stderr


def test_a_start_without_its_auth_file_is_refused(tmp_path: Path) -> None:
    """Rather than to let everyone in."""
    with Process([sys.executable, "-m", "registryd", "--port", "0", "--auth-file", str(tmp_path / "no")]) as process:
        assert process.wait() == 2
    assert process.lines == [
        f"registryd: cannot read the auth file {tmp_path}/no: No such file or directory; set --auth-file"
    ]


def test_there_is_no_warning_of_open_access_where_there_is_none(start_daemon: StartDaemon, tmp_path: Path) -> None:
    a_token(tmp_path / "auth.toml", "a", "read")
    daemon = start_daemon("--host", "0.0.0.0", "--auth-file", str(tmp_path / "auth.toml"))

    assert not [line for line in daemon.events if "WARNING" in line]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--name", "a", "--auth-file", "FILE"], "the following arguments are required: --allow; see registryd --help"),
        (
            ["--name", "a", "--allow", "all", "--auth-file", "FILE"],
            "there is no right 'all'; there are read, register, ",
        ),
        (["--name", "a b", "--allow", "read", "--auth-file", "FILE"], "a name is 1 to 128 of"),
    ],
)
def test_a_token_that_cannot_be_made_is_one_line_and_nothing_on_stdout(
    tmp_path: Path, argv: list[str], said: str
) -> None:
    ran = token_new(*(part.replace("FILE", str(tmp_path / "auth.toml")) for part in argv))

    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_sample_in_the_readme_is_what_comes_out(tmp_path: Path) -> None:
    def shown(steps: list[Step]) -> list[tuple[str, list[str]]]:
        secret = ("rgd_", "hash = ")
        return [
            (step.command, [next((s for s in secret if line.startswith(s)), line) for line in step.output.splitlines()])
            for step in steps
        ]

    seen = []
    for step in steps(block("Who may do what", "console")):
        command = step.command.replace("registryd ", f"{sys.executable} -m registryd ")
        ran = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
        seen.append(Step(step.command, ran.stdout))
    assert shown(seen) == shown(steps(block("Who may do what", "console")))


def test_a_token_that_cannot_be_printed_is_said_to_be_lost(tmp_path: Path) -> None:
    path = tmp_path / "auth.toml"
    command = [sys.executable, "-m", "registryd", "token", "new", "--name", "a", "--allow", "read"]
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [*command, "--auth-file", str(path)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=20,
        )
    assert ran.returncode == 1
    assert ran.stderr == (
        "registryd: cannot print the new token: No space left on device; nobody knows it, so remove [tokens.a] from "
        f"{path} and make another\n"
    )
