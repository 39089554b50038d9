"""Programs that are kept registered, as real processes: under `run`, and by `register --keep`."""

import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator

import pytest
from process import Process, RunningDaemon, fetch
from terminal import CTL, Ctl, Terminal

from registryd.ctl.statuses import Status

pytestmark = pytest.mark.e2e

#: A command that says which signals it gets, and ends by SIGTERM with status 5.
SAYS_SIGNALS = """
trap 'echo got HUP' HUP; trap 'echo got INT' INT; trap 'echo got TERM; exit 5' TERM
echo ready; while :; do sleep 0.05; done
"""
#: The same, and when it gets SIGTERM it asks who is listed.
ASKS = """
import json, os, signal, sys, urllib.request
def stop(*_):
    print("listed:", json.load(urllib.request.urlopen(sys.argv[1]))["count"], flush=True)
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    signal.pause()
"""


class Port:
    """A port of a service, which refuses connections until it opens."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def open(self) -> None:
        self._socket.listen()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port()
    yield port
    port.close()


def run(service: str, url: str, *more: str) -> list[str]:
    return [*CTL, "run", "--service", service, "--url", url, *more]


def test_it_is_registered_when_its_port_answers_and_off_the_list_before_it_is_told_to_stop(
    registry_daemon: RunningDaemon, port: Port
) -> None:
    ask = [sys.executable, "-c", ASKS, f"{registry_daemon.url}/services/port-run"]
    about = ("--id", "port-run-1", "--zone", "eu-1", "--meta", "team=core", "--ttl", "1m")
    argv = run("port-run", port.url, *about, "--", *ask)
    with Process(argv, {"REGISTRY_URL": registry_daemon.url}) as command:
        command.wait_for_line("^ready$")
        assert registry_daemon.listed("port-run") == []
        port.open()
        command.wait_for_line("^registryctl: registered instance=port-run-1 at ")
        (instance,) = registry_daemon.fetch("/services/port-run").json["instances"]
        assert (instance["base_url"], instance["zone"], instance["ttl"]) == (port.url, "eu-1", 60)
        command.signal(signal.SIGTERM)
        command.wait_for_line("^listed: 0$")
        assert command.wait() == 5

    registry_daemon.wait_for_line("deregistered service=port-run instance=port-run-1 .*its owner asked for it")


def test_where_it_answers_may_be_elsewhere_than_its_url_says(registry_daemon: RunningDaemon, port: Port) -> None:
    port.open()
    probe = port.url.removeprefix("http://")
    argv = run("probed", "http://users.example", "--probe", probe, "--", "sh", "-c", SAYS_SIGNALS)
    with Process(argv, {"REGISTRY_URL": registry_daemon.url}) as command:
        command.wait_for_line("^registryctl: registered instance=")
        (instance,) = registry_daemon.fetch("/services/probed").json["instances"]
        assert instance["base_url"] == "http://users.example"
        command.wait_for_line("^ready$")
        command.signal(signal.SIGTERM)
        assert command.wait() == 5


def test_it_serves_on_through_the_grace_unless_it_is_told_twice(registry_daemon: RunningDaemon, port: Port) -> None:
    port.open()
    argv = run("grace", port.url, "--grace", "1h", "--", "sh", "-c", SAYS_SIGNALS)
    with Process(argv, {"REGISTRY_URL": registry_daemon.url}) as command:
        command.wait_for_line("^ready$")
        command.wait_for_line("^registryctl: registered instance=")
        command.signal(signal.SIGHUP)
        command.wait_for_line("^got HUP$")
        assert len(registry_daemon.listed("grace")) == 1
        command.signal(signal.SIGTERM)
        registry_daemon.wait_for_line("deregistered service=grace ")
        assert "got TERM" not in command.output
        command.signal(signal.SIGTERM)
        assert command.wait() == 5


@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("exit 0", 0), ("kill -KILL $$", -9), ("kill -TERM $$", -15)]
)
def test_it_ends_as_its_command_does_and_is_taken_off_the_list(
    registry_daemon: RunningDaemon, port: Port, script: str, status: int
) -> None:
    port.open()
    service = f"ends{abs(status)}"
    wait = f"until curl -s {registry_daemon.url}/services/{service} | grep -q '\"count\":1'; do :; done; {script}"
    with Process(run(service, port.url, "--", "sh", "-c", wait), {"REGISTRY_URL": registry_daemon.url}) as command:
        assert command.wait() == status

    assert registry_daemon.listed(service) == []


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("", Status.NOT_FOUND, "cannot run : No such file or directory"),
        ("no-such-command", Status.NOT_FOUND, "cannot run no-such-command: No such file or directory"),
        ("/", Status.NOT_STARTABLE, "cannot run /: Permission denied"),
    ],
)
def test_what_cannot_be_started_is_said(ctl: Ctl, command: str, status: Status, said: str) -> None:
    assert ctl("run --service x --url http://127.0.0.1:1 --", command) == (status, "", f"registryctl: {said}\n")


def test_a_registry_that_is_down_holds_nothing_up(port: Port) -> None:
    port.open()
    argv = run("lonely", port.url, "--", "sh", "-c", SAYS_SIGNALS)
    with Process(argv, {"REGISTRY_URL": "http://127.0.0.1:1"}) as command:
        command.wait_for_line("^registryctl: no answer from the registry at http://127.0.0.1:1: ")
        command.wait_for_line("^ready$")
        command.signal(signal.SIGTERM)
        command.wait_for_line("^got TERM$")
        assert command.wait() == 5


def test_one_that_the_registry_refuses_runs_on(registry_daemon: RunningDaemon, port: Port) -> None:
    port.open()
    argv = run("bad name", port.url, "--", "sh", "-c", SAYS_SIGNALS)
    with Process(argv, {"REGISTRY_URL": registry_daemon.url}) as command:
        command.wait_for_line("^ready$")
        command.wait_for_line("^registryctl: the registry refuses this registration: .*; trying again in 30 s$")
        command.signal(signal.SIGTERM)
        assert command.wait() == 5


def test_what_is_sent_to_all_of_its_process_group_does_not_stop_the_command_first(
    registry_daemon: RunningDaemon,
) -> None:
    argv = ["setsid", *run("group", "http://127.0.0.1:1", "--", "sh", "-c", SAYS_SIGNALS)]
    with Process(argv, {"REGISTRY_URL": registry_daemon.url}) as command:
        command.wait_for_line("^ready$")
        os.killpg(command.popen.pid, signal.SIGINT)
        command.wait_for_line("^got INT$")
        os.killpg(command.popen.pid, signal.SIGTERM)
        assert command.wait() == 5

    assert command.lines.count("got INT") == command.lines.count("got TERM") == 1


def test_ctrl_c_in_a_terminal_comes_to_the_command_once_which_reads_from_there(
    registry_daemon: RunningDaemon, port: Port
) -> None:
    port.open()
    # With a time-out, as bash may miss a signal that comes just before it begins to read, until it has read.
    more = "while :; do read -t 0.1 line && echo more $line; done"
    script = f"trap 'echo got INT' INT; read line; echo read $line; {more}"
    argv = run("typed", port.url, "--", "bash", "-c", script)
    with Terminal(argv, {"REGISTRY_URL": registry_daemon.url}) as terminal:
        terminal.wait_for("registryctl: registered instance=")
        terminal.type("hello\n")
        terminal.wait_for("read hello\r\n")
        terminal.type("\x03")
        terminal.wait_for("got INT\r\n")
        registry_daemon.wait_for_line("deregistered service=typed ")
        terminal.type("again\n")
        assert "got INT" not in terminal.wait_for(r"(?s)^.*more again\r\n")[0]
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.wait() == -signal.SIGTERM


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="only root can make a PID namespace to be the init of, by unshare of util-linux (.ci/run has both)",
)
def test_as_the_init_of_a_container_it_reaps_orphans_and_ends_as_a_shell_would(registry_daemon: RunningDaemon) -> None:
    orphan = "pid=$(sh -c 'sh -c : > /dev/null & echo $!'); while kill -0 $pid 2> /dev/null; do :; done; echo reaped"
    script = f"trap 'kill -KILL $$' TERM; {orphan}; echo pid $PPID; while :; do sleep 0.05; done"
    argv = ["unshare", "--pid", "--fork", "--kill-child", *run("init", "http://127.0.0.1:1", "--", "sh", "-c", script)]
    with Process(argv, {"REGISTRY_URL": registry_daemon.url}) as command:
        command.wait_for_line("^reaped$")
        command.wait_for_line("^pid 1$")
        children = f"/proc/{command.popen.pid}/task/{command.popen.pid}/children"
        with open(children, encoding="utf-8") as file:
            os.kill(int(file.read()), signal.SIGTERM)
        assert command.wait() == 128 + signal.SIGKILL


def test_the_command_has_what_it_would_have_without_us(registry_daemon: RunningDaemon) -> None:
    script = "env | grep ^MARK; grep -E 'Sig(Ign|Blk)' /proc/self/status; ls -l /proc/self/fd | grep -c socket"
    with Process(run("plain", "http://127.0.0.1:1", "--", "sh", "-c", script), {"MARK": "x y"}) as command:
        command.wait()

    mark, blocked, ignored, sockets = command.lines
    assert (mark, blocked, sockets) == ("MARK=x y", "SigBlk:\t0000000000000000", "0")
    # Two that the C library keeps for itself are ignored by whatever posix_spawn(3) starts.
    assert int(ignored.split()[1], 16) & ~(1 << 31 | 1 << 32) == 0


def test_it_is_kept_registered_from_when_its_port_answers(registry_daemon: RunningDaemon, port: Port) -> None:
    probe = port.url.removeprefix("http://")
    argv = [*CTL, "register", "--keep", "--service", "kept-later", "--url", port.url, "--probe", probe]
    with Process(argv, {"REGISTRY_URL": registry_daemon.url}) as command:
        assert registry_daemon.listed("kept-later") == []
        port.open()
        command.wait_for_line("^registryctl: registered instance=")
        assert len(registry_daemon.listed("kept-later")) == 1
        command.signal(signal.SIGINT)
        assert command.wait() == Status.DONE


def test_it_is_kept_registered_until_it_is_told_to_stop(registry_daemon: RunningDaemon) -> None:
    argv = [*CTL, "register", "--keep", "--service", "kept", "--url", "http://10.0.0.5:8000", "--ttl", "1s"]
    with Process(argv, {"REGISTRY_URL": registry_daemon.url}) as command:
        instance_id = command.wait_for_line("^registryctl: registered instance=(.*) at ")[1]
        before = fetch(f"{registry_daemon.url}/instances/{instance_id}").json
        while (now := fetch(f"{registry_daemon.url}/instances/{instance_id}").json) == before:
            pass  # until a heartbeat has come
        assert now["generation"] == 1
        command.signal(signal.SIGTERM)
        assert command.wait() == Status.DONE

    assert registry_daemon.listed("kept") == []
    assert not re.search("warning|could not", command.output)
