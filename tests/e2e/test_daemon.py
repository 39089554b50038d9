"""The daemon as a process: start, stop, signals, log, and what it tells its service manager."""

import json
import re
import shutil
import signal
import socket
import sys
import sysconfig
from contextlib import ExitStack
from pathlib import Path

import pytest
from process import DEADLINE, Process, RunningDaemon, StartDaemon

import registryd
from registryd import __version__

pytestmark = pytest.mark.e2e

UPLOAD = b"POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Length: 46\r\n\r\n"
BODY = b'{"service_name":"users","base_url":"http://h"}'


def console_script() -> str:
    path = shutil.which("registryd", path=sysconfig.get_path("scripts"))
    assert path is not None, "the package is installed"
    return path


def test_it_serves_from_the_moment_it_says_ready(daemon: RunningDaemon) -> None:
    assert daemon.fetch("/readyz").body == b"ok\n"
    assert daemon.manager.heard[0] == "READY=1"


def test_the_start_line_names_the_real_address(daemon: RunningDaemon) -> None:
    port = daemon.url.rpartition(":")[2]

    assert re.fullmatch(
        rf"\S+Z INFO registryd {re.escape(__version__)} listening on http://127\.0\.0\.1:{port} http=front "
        r"store=memory heartbeat_timeout=30 cleanup_interval=10 pid=\d+",
        daemon.lines[0],
    )


def test_it_serves_on_sockets_that_are_handed_over(start_daemon: StartDaemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        daemon = start_daemon(handed=[("http", one.fileno())])
        assert daemon.url == f"http://127.0.0.1:{port}"
        assert daemon.fetch("/livez").status == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0

        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as early:
            early.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            start_daemon(handed=[("http", one.fileno())])
            assert early.recv(4096).startswith(b"HTTP/1.1 200 "), "who comes while it is not there waits"


def test_a_socket_that_nobody_knows_stops_the_start() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as sock,
        Process([sys.executable, "-m", "registryd"], handed=[("dns", sock.fileno())]) as process,
    ):
        assert process.wait() == 2
    assert re.fullmatch("registryd: .* a socket named 'dns', which .*; give it FileDescriptorName=http", process.output)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order(daemon: RunningDaemon, number: signal.Signals) -> None:
    daemon.register()
    daemon.signal(number)

    assert daemon.wait() == 0
    daemon.manager.wait_for("STOPPING=1")
    assert daemon.lines[-1].endswith("INFO stopped")


@pytest.mark.parametrize("script", [True, False])
def test_it_runs_as_a_console_script_and_as_a_module(start_daemon: StartDaemon, script: bool) -> None:
    daemon = start_daemon(argv=[console_script()] if script else [sys.executable, "-m", "registryd"])
    assert daemon.fetch("/livez").status == 200
    daemon.signal(signal.SIGTERM)

    assert daemon.wait() == 0


def test_a_stop_waits_for_what_is_under_way(daemon: RunningDaemon) -> None:
    with daemon.connect() as client, daemon.connect() as idle:
        client.sendall(UPLOAD + BODY[:10])
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_line(r"SIGTERM: stopping after 1 requests under way")

        idle.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 503 "), "it says that it is not ready any more"
        with pytest.raises(ConnectionRefusedError):
            daemon.connect()
        client.sendall(BODY[10:])
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")

    assert daemon.wait() == 0


def test_a_stop_does_not_wait_for_ever(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--drain-timeout", "0.1")
    with daemon.connect() as client:
        client.sendall(UPLOAD)
        daemon.fetch("/livez")  # so the upload has been seen
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 1, "the exit status tells that something was cut off"

    assert "WARNING stopping although requests are under way cut=1" in daemon.output


def test_a_second_signal_does_not_wait_for_those_who_do_not_read(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--drain-timeout", "3600")
    for n in range(30):
        registration = {
            "service_name": "users",
            "base_url": "http://h",
            "metadata": {str(k): "x" * 1000 for k in range(60)},
        }
        daemon.fetch("/register", "POST", registration | {"instance_id": str(n)})
    with daemon.connect() as client:
        client.sendall(b"GET /services/users HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)  # 36 MB, more than sockets hold
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_line("SIGTERM: stopping after")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 1


def test_a_second_signal_forces_the_stop(daemon: RunningDaemon) -> None:
    with daemon.connect() as client:
        client.sendall(UPLOAD)
        daemon.fetch("/livez")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_line("SIGTERM: stopping after 1 requests")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 1

    assert "SIGTERM again: stopping at once" in daemon.output


def refused(*argv: str, status: int = 2, **environ: str) -> str:
    """The only line of a daemon that does not start."""
    with Process([*argv], environ) as process:
        assert process.wait() == status
    (line,) = process.lines
    return line


@pytest.mark.parametrize("command", [[console_script()], [sys.executable, "-m", "registryd"]], ids=["script", "module"])
def test_a_port_in_use_is_one_line_and_status_2(daemon: RunningDaemon, command: list[str]) -> None:
    port = daemon.url.rpartition(":")[2]

    assert refused(*command, "--port", port, status=3) == (
        f"registryd: cannot listen on 127.0.0.1 port {port}: Address already in use; set --host or --port"
    )


def test_a_bad_setting_is_one_line_and_status_2() -> None:
    assert refused(console_script(), HEARTBEAT_TIMEOUT="soon") == (
        "registryd: HEARTBEAT_TIMEOUT: 'soon' cannot be used; give a number of seconds from 1 to 86400"
    )
    assert refused(console_script(), "--nonsense") == (
        "registryd: unrecognized arguments: --nonsense; see registryd --help"
    )
    assert refused(console_script(), CLEANUP_INTERVAL="0", JOURNAL_STREAM="{stream}") == (
        "<2>registryd: CLEANUP_INTERVAL: '0' cannot be used; give a number of seconds from 0.1 to 3600"
    )


def test_the_seeds_environment_is_obeyed(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(environ={"HEARTBEAT_TIMEOUT": "2.5", "CLEANUP_INTERVAL": "0.5"})

    assert daemon.register()["ttl"] == 2.5
    status = daemon.fetch("/status").json
    assert (status["heartbeat_timeout"], status["cleanup_interval"]) == (2.5, 0.5)


def test_the_version_is_the_packages() -> None:
    with Process([console_script(), "--version"]) as process:
        assert process.wait() == 0
    assert process.lines == [f"registryd {__version__}"]


def test_lines_for_the_journal_have_priorities_and_no_time(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--log-format", "plain", environ={"JOURNAL_STREAM": "{stream}"})
    daemon.register(instance_id="users-1")
    daemon.signal(signal.SIGTERM)
    daemon.wait()

    assert all(line.startswith("<6>") for line in daemon.events)
    assert daemon.events[1].startswith("<6>registered service=users instance=users-1 url=http://10.0.0.5:8000 ")


#: The daemon on a machine whose journal is elsewhere, or gone.
WITHOUT_JOURNAL = """
import sys
from registryd.logs import journal
journal.SOCKET = "/nowhere"
from registryd.cli import main
sys.exit(main())
"""


def test_where_the_journal_cannot_be_reached_it_gets_lines(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(argv=[sys.executable, "-c", WITHOUT_JOURNAL], environ={"JOURNAL_STREAM": "{stream}"})
    daemon.signal(signal.SIGTERM)
    daemon.wait()

    assert all(line.startswith("<6>") for line in daemon.events)
    assert daemon.events[-1] == "<6>stopped"


def test_json_on_request_is_an_object_for_each_entry(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(environ={"REGISTRYD_LOG_FORMAT": "json"})
    daemon.register(instance_id="users-1")
    daemon.signal(signal.SIGTERM)
    daemon.wait()

    told = [json.loads(line) for line in daemon.events]
    assert [entry["event"] for entry in told] == ["started", "registered", "stopping", "stopped"]
    assert told[0]["url"] == [daemon.url]
    assert (told[1]["service"], told[1]["instance"], told[1]["peer"]) == ("users", "users-1", "127.0.0.1")


def test_a_mass_of_changes_is_summed_up(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(environ={"REGISTRYD_LOG_FORMAT": "json"})
    requests = [
        b"POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
        for _ in range(3000)
    ]
    with daemon.connect() as client:
        client.sendall(b"".join(requests))
        client.shutdown(socket.SHUT_WR)
        while client.recv(1_000_000):
            pass
    daemon.signal(signal.SIGTERM)
    daemon.wait()

    told = [entry for entry in map(json.loads, daemon.events) if entry["event"] == "registered"]
    sums = [entry for entry in told if "count" in entry]
    assert len(told) - len(sums) + sum(entry["count"] for entry in sums) == 3000, "every one is told of, or counted"
    assert len(told) < 1500
    assert all(entry["service"] == ["users"] for entry in sums)


def test_an_instance_that_appears_or_goes_is_logged_with_why_and_a_heartbeat_is_not(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon("--cleanup-interval", "0.1")
    daemon.register(instance_id="a")
    for n in range(20):
        assert daemon.fetch("/heartbeat/a", "POST").status == 200
        assert daemon.fetch("/heartbeat/a", "POST", {"metadata": {"load": str(n)}}).status == 200
    daemon.register(instance_id="a")
    daemon.fetch("/deregister/a", "DELETE")
    daemon.register(instance_id="b", ttl=1)
    daemon.wait_for_line("expired service=users instance=b")
    daemon.signal(signal.SIGTERM)
    daemon.wait()

    story = [(match[1], match[2], match[3]) for line in daemon.events if (match := _CHANGE.search(line))]
    assert story == [
        ("registered", "a", "new"),
        ("registered", "a", "takes over generation 1"),
        ("deregistered", "a", "its owner asked for it"),
        ("registered", "b", "new"),
        ("expired", "b", "no heartbeat for 1 s"),
    ]
    assert len(daemon.events) == len(story) + 3, "and nothing else but start and stop"


_CHANGE = re.compile(r"INFO (\w+) service=users instance=(\w) .* reason='(.*)'")


def test_listening_to_everyone_is_warned_of(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--host", "0.0.0.0")

    daemon.wait_for_line(r"WARNING everyone who can reach http://0\.0\.0\.0:\d+ may register and deregister services")


def test_listening_to_this_machine_is_not(daemon: RunningDaemon) -> None:
    daemon.signal(signal.SIGTERM)
    daemon.wait()

    assert not [line for line in daemon.events if "WARNING" in line]


def test_the_watchdog_is_fed(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(environ={"WATCHDOG_USEC": "300000"})

    daemon.manager.wait_for("WATCHDOG=1")


def test_an_index_is_never_given_twice_across_quick_restarts(start_daemon: StartDaemon) -> None:
    last = 0
    for _ in range(3):
        daemon = start_daemon()
        first = daemon.fetch("/status").json["index"]
        assert last < first < 2**53
        daemon.register()
        last = daemon.fetch("/status").json["index"]
        daemon.popen.kill()
        daemon.wait()


def test_a_stop_of_the_process_costs_nobody_the_lease(start_daemon: StartDaemon) -> None:
    stopped, running = start_daemon("--cleanup-interval", "0.1"), start_daemon("--cleanup-interval", "0.1")
    stopped.register(instance_id="a", ttl=2)
    stopped.signal(signal.SIGSTOP)
    running.register(instance_id="a", ttl=2)
    running.wait_for_line("expired service=users instance=a")  # so much time has passed
    stopped.signal(signal.SIGCONT)

    assert stopped.listed() == ["a"]
    stopped.wait_for_line(r"WARNING stalled seconds=\d")
    leases = stopped.fetch("/status").json["leases"]
    assert (leases["stalls"], leases["expired"]) == (1, 0)
    stopped.wait_for_line("expired service=users instance=a")


def test_connections_that_are_refused_cost_nobody_the_lease(start_daemon: StartDaemon) -> None:
    full, running = start_daemon("--max-connections", "2"), start_daemon("--cleanup-interval", "0.1")
    body = b'{"service_name":"users","base_url":"http://h","instance_id":"a","ttl":2}'
    register = b"POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with ExitStack() as stack:
        kept = [stack.enter_context(full.connect(f"127.0.0.{n}")) for n in (2, 3)]  # no address may have all
        for client in kept:
            client.sendall(register)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert full.fetch("/heartbeat/a", "POST").status == 503
        running.register(instance_id="a", ttl=2)
        running.wait_for_line("expired service=users instance=a")  # so much time has passed
        kept[0].sendall(b"GET /services/users HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b'"instance_id":"a"' in kept[0].recv(4096)
    full.wait_for_line(r"WARNING stalled seconds=\d")
    full.wait_for_line("expired service=users instance=a")


def test_running_out_of_file_descriptors_makes_new_connections_wait_and_no_noise(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(argv=["bash", "-c", f"ulimit -n 40; exec {sys.executable} -m registryd $*", "daemon"])
    with ExitStack() as stack:
        clients = [stack.enter_context(daemon.connect()) for _ in range(60)]
        daemon.wait_for_line("WARNING cannot accept a connection: Too many open files")
        clients[0].sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert clients[0].recv(4096).startswith(b"HTTP/1.1 200 "), "those who are in are served"
    assert daemon.fetch("/livez").status == 200, "and those who waited, when there is room"

    assert len([line for line in daemon.events if "WARNING" in line]) == 1


def test_closed_standard_error_is_no_reason_not_to_serve(start_daemon: StartDaemon) -> None:
    with Process(["bash", "-c", f"exec {console_script()} --port 99999 2>&-"]) as process:
        assert process.wait() == 2


def test_what_aborts_it_leaves_in_the_log_where_it_was(daemon: RunningDaemon) -> None:
    daemon.signal(signal.SIGABRT)

    assert daemon.wait() == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in daemon.output
    assert re.search(r'File ".*", line \d+ in ', daemon.output)


def test_the_status_says_how_it_goes(daemon: RunningDaemon) -> None:
    assert daemon.manager.heard[1] == f"STATUS={daemon.url}: 0 instances of 0 services, 0 watchers, 0 heartbeats/s"
    daemon.register()

    daemon.manager.wait_for(f"STATUS={daemon.url}: 1 instance of 1 service, 0 watchers, 0 heartbeats/s")


def test_a_flood_of_nonsense_is_not_logged(daemon: RunningDaemon) -> None:
    for junk in (
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    ):
        with daemon.connect() as client:
            client.sendall(junk)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(4096).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    daemon.signal(signal.SIGTERM)
    daemon.wait()

    assert len(daemon.events) == 3


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(registryd.__file__).parent / "py.typed").exists()


#: What a process sees in which the extra `speed` is not installed.
WITHOUT_SPEED = (
    "import sys; sys.modules['httptools'] = sys.modules['uvloop'] = None\n"
    "from registryd.cli import main; sys.exit(main())"
)


@pytest.mark.parametrize("args", [["--http", "tornado"], []])
def test_without_the_front_it_does_the_same(start_daemon: StartDaemon, args: list[str]) -> None:
    argv = [sys.executable, "-c", WITHOUT_SPEED] if not args else None
    daemon = start_daemon(*args, argv=argv)
    daemon.register()
    assert " http=tornado " in daemon.lines[0]
    assert daemon.fetch("/services/users").json["count"] == 1
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def test_the_front_without_its_extra_is_a_line_that_says_what_to_install() -> None:
    with Process([sys.executable, "-c", WITHOUT_SPEED, "--http", "front", "--port", "0"]) as process:
        assert process.wait() == 2
        (line,) = process.lines
        assert line.startswith("registryd: --http front needs httptools: install registryd with its extra, ")


def test_a_rate_limit_comes_with_a_reload_and_spares_heartbeats(start_daemon: StartDaemon, tmp_path: Path) -> None:
    settings = tmp_path / "settings"
    settings.write_text("")
    daemon = start_daemon("--settings", str(settings))
    daemon.register(instance_id="a")
    settings.write_text("REGISTRYD_MAX_REQUESTS_PER_ADDRESS=1\n")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_line("reloaded: --max-requests-per-address from 0 to 1")

    answers = (daemon.fetch("/services/users") for _ in range(200))
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.json["code"] == "too_many_requests"
    daemon.wait_for_line(r"WARNING 127\.0\.0\.1 makes more than 1 requests a second")
    assert {daemon.fetch("/heartbeat/a", "POST").status for _ in range(20)} == {200}
    settings.write_text("")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_line("reloaded: --max-requests-per-address from 1 to 0")
    assert daemon.fetch("/status").json["overload"]["requests_refused"] == 1
