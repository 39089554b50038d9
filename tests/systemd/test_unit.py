"""The unit under a real systemd, installed by the README's own commands."""

import json
import re
from typing import Any

import pytest
from box import Box
from readme import block, steps, without_chance

from registryd.config import settings
from registryd.logs.events import MESSAGE_IDS

pytestmark = [pytest.mark.systemd, pytest.mark.e2e]

UNITS = [f"/usr/local/lib/systemd/system/registryd.{kind}" for kind in ("service", "socket")]
REGISTER = (
    "curl -s localhost:8006/register -d "
    """'{"service_name": "users", "base_url": "http://10.0.0.5:8000", "instance_id": "users-1"}'"""
)


def fetch(box: Box, path: str) -> Any:
    return json.loads(box.run("curl", "-s", f"localhost:8006{path}").stdout)


def drop_in(box: Box, text: str, unit: str = "registryd.service", check: bool = True) -> None:
    box.shell(
        f"mkdir -p /run/systemd/system/{unit}.d\n"
        f"cat > /run/systemd/system/{unit}.d/test.conf <<'END'\n{text}\nEND\n"
        f"systemctl daemon-reload; systemctl restart {unit}",
        check=check,
    )


def wait_for_restart(box: Box, pid: str) -> None:
    """Waits until another process than `pid` serves: systemctl start waits for READY=1."""
    box.shell(
        f'timeout 20 bash -c \'while [ "$(systemctl show -P MainPID registryd)" = {pid} ] || '
        "! systemctl is-active -q registryd; do sleep 0.05; done'"
    )


def test_the_unit_has_nothing_that_systemd_does_not_know(box: Box) -> None:
    ran = box.run("systemd-analyze", "verify", "--man=no", *UNITS, check=False)

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_the_sandbox_is_tight(box: Box) -> None:
    ran = box.run("systemd-analyze", "security", "--threshold=12", "--no-pager", "registryd.service", check=False)

    assert ran.returncode == 0, ran.stdout


def test_there_is_nothing_to_write_to_but_its_state(box: Box) -> None:
    pid = box.property("MainPID")
    user = box.shell(f"stat -c %u /proc/{pid}").strip()
    # As the service sees it: in its mount namespace, as its user. What is in /proc is the process itself.
    seen = box.run(
        "nsenter", "-t", pid, "-m", "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
        "find", "/", "-path", "/proc", "-prune", "-o", "(", "-type", "f", "-o", "-type", "d", ")",
        "-writable", "-print",
        check=False,  # there is much that it may not even look at
    ).stdout.splitlines()  # fmt: skip

    assert seen
    assert [path for path in seen if not re.match(r"/var/lib/private/registryd(/|$)", path)] == []


def test_it_asks_for_no_system_call_that_is_denied_but_io_uring(box: Box) -> None:
    """Else it would be killed here."""
    drop_in(box, "[Service]\nSystemCallErrorNumber=kill\nSystemCallFilter=@aio\n")
    box.shell(
        f"{REGISTER}\ncurl -sS localhost:8006/heartbeat/users-1 -X POST\n"
        "curl -sS localhost:8006/openapi.json -o /dev/null\n"
        "curl -fsS localhost:8006/sd/prometheus; curl -fsS localhost:8006/metrics | grep -q '^process_open_fds [1-9]'\n"
        "curl -sS 'localhost:8006/services/users?min=2&wait=100ms'; curl -sSN localhost:8006/watch -m 0.3 || true\n"
        "curl -sS localhost:8006/register -d '{'; systemctl reload registryd; systemctl restart registryd\n"
        "curl -fsS localhost:8006/instances/users-1; curl -sS -X DELETE localhost:8006/deregister/users-1\n"
        "systemctl stop registryd"
    )

    assert (box.property("Result"), box.property("NRestarts")) == ("success", "0")


def test_it_has_no_network_but_its_sockets(box: Box) -> None:
    pid = box.property("MainPID")

    assert box.shell(f"nsenter -t {pid} -n ip -o link").count("\n") == 1, "its own loopback, with nobody on it"
    assert box.shell(f"nsenter -t {pid} -n ss -Htuln") == ""
    assert box.shell(f"readlink /proc/{pid}/ns/net") != box.shell("readlink /proc/1/ns/net")
    assert "http://127.0.0.1:8006" in box.property("StatusText")


def test_start_returns_when_it_serves(box: Box) -> None:
    box.shell("systemctl stop registryd; systemctl start registryd; curl -fsS localhost:8006/readyz")

    assert box.property("Type") == "notify"
    assert box.property("StatusText").startswith("http://127.0.0.1:8006: 0 instances of 0 services, ")
    assert box.run("systemctl", "is-enabled", "registryd").stdout == "enabled\n"


def test_it_is_nobody_in_particular(box: Box) -> None:
    pid = box.property("MainPID")
    status = box.shell(f"cat /proc/{pid}/status")

    assert box.property("DynamicUser") == "yes"
    uid = int(re.findall(r"^Uid:\s+(\d+)", status, re.MULTILINE)[0])
    assert 61184 <= uid <= 65519, "of systemd's range for dynamic users"
    assert re.findall(r"^Cap(?:Eff|Prm|Bnd|Amb):\s+(\w+)", status, re.MULTILINE) == ["0" * 16] * 4


def test_the_journal_reads_as_the_readme_shows(box: Box) -> None:
    box.shell(REGISTER)
    (step,) = steps(block("Under systemd", "console"))
    box.run("journalctl", "--sync")
    since = box.property("InactiveExitTimestamp").split(maxsplit=1)[1]
    seen = box.shell(
        f"{step.command} --no-pager --since '{since.rpartition(' ')[0]}' | tail -n {step.output.count(chr(10))}"
    )

    # systemd's lines and ours come to the journal by two ways, whose order is not certain.
    assert sorted(without_chance(seen).splitlines()) == sorted(without_chance(step.output).splitlines())


def test_lines_have_their_priority_in_the_journal(box: Box) -> None:
    box.shell(REGISTER)
    own = [entry for entry in box.journal() if entry["_COMM"] == "registryd"]

    assert [entry["PRIORITY"] for entry in own] == ["6", "6", "6"]
    assert own[2]["MESSAGE"].startswith("registered service=users instance=users-1 url=http://10.0.0.5:8000 ")


def found(box: Box, *matches: str) -> list[dict[str, Any]]:
    """What the journal has of the unit's current life that matches, waited for: it may come a moment later."""
    invocation = box.property("InvocationID")
    search = f"journalctl -u registryd _SYSTEMD_INVOCATION_ID={invocation} {' '.join(matches)} -o json --no-pager"
    box.shell(f"timeout 20 bash -c 'until {search} -q | grep -q .; do sleep 0.05; journalctl --sync; done'")
    return [json.loads(line) for line in box.shell(search).splitlines()]


def test_an_entry_is_found_by_its_fields(box: Box) -> None:
    box.shell(REGISTER)
    (entry,) = found(box, "REGISTRYD_SERVICE=users", "REGISTRYD_EVENT=registered")

    assert entry["MESSAGE"].startswith("registered service=users instance=users-1 ")
    assert (entry["REGISTRYD_INSTANCE"], entry["REGISTRYD_REASON"]) == ("users-1", "new")
    assert entry["REGISTRYD_PEER"] in {"127.0.0.1", "::1"}
    assert entry["MESSAGE_ID"] == MESSAGE_IDS["registered"]
    assert entry["SYSLOG_IDENTIFIER"] == "registryd"
    assert entry["_TRANSPORT"] == "journal"


def test_a_lease_that_ends_is_found_by_its_event(box: Box) -> None:
    box.shell("echo CLEANUP_INTERVAL=0.1 >> /etc/default/registryd; systemctl restart registryd")
    box.shell(REGISTER.replace('"instance_id"', '"ttl": 1, "instance_id"'))
    (entry,) = found(box, "REGISTRYD_EVENT=expired")

    assert (entry["REGISTRYD_SERVICE"], entry["REGISTRYD_INSTANCE"]) == ("users", "users-1")
    assert entry["REGISTRYD_REASON"] == "no heartbeat for 1 s"
    assert "REGISTRYD_PEER" not in entry, "nobody has asked for it"


def test_the_catalog_explains_an_entry(box: Box) -> None:
    box.shell(REGISTER)
    found(box, "REGISTRYD_EVENT=registered")
    shown = box.shell("journalctl -x -u registryd --no-pager REGISTRYD_EVENT=registered -n 1")

    assert " Subject: An instance of users has registered\n" in shown
    assert " Defined-By: registryd\n" in shown
    assert " The instance users-1 of the service users is\n" in shown
    assert "@" not in shown


def test_the_last_words_are_of_the_unit_however_quickly_it_goes(box: Box) -> None:
    for _ in range(10):
        invocation = box.property("InvocationID")
        box.shell("systemctl restart registryd; journalctl --sync")
        shown = box.shell(f"journalctl -u registryd _SYSTEMD_INVOCATION_ID={invocation} -o cat --no-pager")
        assert shown.splitlines()[-2:] == ["SIGTERM: stopping after 0 requests under way", "stopped"]


def test_last_words_are_of_the_unit_when_the_journal_is_late(box: Box) -> None:
    invocation = box.property("InvocationID")
    journald = box.property("MainPID", "systemd-journald")
    pid = box.property("MainPID")
    # journald forgets of which unit a process is that it has not read from for 5 s: then it has to look.
    box.shell("timeout 20 bash -c 'until [ $SECONDS -ge 7 ]; do sleep 0.1; done'")
    box.shell(
        f"kill -STOP {journald}; kill -TERM {pid}; "
        "timeout 20 bash -c 'until systemctl show registryd | grep -q ^ActiveState=deact; do sleep 0.05; done'; "
        f"kill -CONT {journald}; timeout 20 bash -c 'while test -d /proc/{pid}; do sleep 0.05; done'; journalctl --sync"
    )

    shown = box.shell(f"journalctl -u registryd _SYSTEMD_INVOCATION_ID={invocation} -o cat --no-pager")
    assert shown.splitlines()[-1] == "stopped"


def test_a_journal_that_hangs_holds_nobody_up(box: Box) -> None:
    journald = box.property("MainPID", "systemd-journald")
    box.shell(
        f"kill -STOP {journald}; trap 'kill -CONT {journald}' EXIT; "
        "for n in $(seq 400); do curl -fsS -m 5 -o /dev/null localhost:8006/register -d "
        """'{"service_name": "users", "base_url": "http://10.0.0.5:8000"}'; done"""
    )

    assert fetch(box, "/services/users")["count"] == 400
    assert found(box, "REGISTRYD_EVENT=registered")


def test_stop_is_in_order(box: Box) -> None:
    box.shell("systemctl stop registryd")

    assert (box.property("Result"), box.property("ExecMainStatus")) == ("success", "0")
    assert box.run("systemctl", "is-active", "registryd", check=False).stdout == "inactive\n"


def test_a_client_starts_it_again(box: Box) -> None:
    box.shell("systemctl stop registryd; curl -fsS localhost:8006/readyz")

    assert box.property("ActiveState") == "active"


def test_the_address_is_changed_in_the_socket(box: Box) -> None:
    drop_in(box, "[Socket]\nListenStream=\nListenStream=127.0.0.1:80\n", "registryd.socket")

    assert box.run("curl", "-sS", "localhost:80/livez").stdout == "ok\n"
    assert box.property("StatusText").startswith("http://127.0.0.1:80: ")


def test_a_killed_daemon_comes_back(box: Box) -> None:
    pid = box.property("MainPID")
    box.shell(f"kill -KILL {pid}")
    wait_for_restart(box, pid)

    assert fetch(box, "/status")["status"] == "ok"


def test_what_was_answered_survives_a_kill_and_whoever_knocks_meanwhile_waits(box: Box) -> None:
    pid = box.property("MainPID")
    box.shell(f"{REGISTER} >/dev/null; kill -KILL {pid}")

    listed = fetch(box, "/services/users")["instances"]
    assert [instance["instance_id"] for instance in listed] == ["users-1"]
    assert box.property("MainPID") != pid


WITHOUT_SOCKET_AT_FIRST = """[Service]
ExecStart=
ExecStart=/bin/sh -c "test -e /var/lib/registryd/again || { : > /var/lib/registryd/again; unset LISTEN_FDS; }; \\
  exec /opt/registryd/bin/registryd"
"""


def test_a_start_without_the_socket_is_tried_again(box: Box) -> None:
    """As when the socket has had enough of crashes in the moment in which the service starts."""
    drop_in(box, WITHOUT_SOCKET_AT_FIRST, check=False)
    box.shell("curl -fsS localhost:8006/readyz")

    assert (box.property("ActiveState"), box.property("NRestarts")) == ("active", "1")
    box.run("journalctl", "--sync")
    assert re.search(
        r"cannot listen on 127\.0\.0\.1 port 8006: .*; set --host or --port, or have the service manager hand a socket "
        r"over: systemctl restart registryd\.socket\n",
        box.shell("journalctl -u registryd -o cat --no-pager -n 20"),
    )


def test_stopping_the_socket_stops_both(box: Box) -> None:
    box.run("systemctl", "stop", "registryd.socket")

    assert box.run("systemctl", "is-active", "registryd", "registryd.socket", check=False).stdout == "inactive\n" * 2


def test_a_restart_under_load_is_noticed_by_nobody(box: Box) -> None:
    """1,000 requests a second, half on new connections, half on kept ones."""
    heartbeats = "$(curl -s localhost:8006/status | grep -o renewed.:[0-9]* | cut -d: -f2)"
    flows = f"timeout 20 bash -c 'until [ {heartbeats} -gt 100 ]; do sleep 0.05; done'\n"
    said = json.loads(
        box.shell(
            "/usr/bin/python3 -I /srv/registryd/tests/bench/traffic.py http://127.0.0.1:8006 & traffic=$!\n"
            + (f"{flows}systemctl restart registryd\n" * 3)
            + f"{flows}kill -TERM $traffic; wait $traffic"
        )
    )

    assert said["failures"] == 0, json.dumps(said, indent=1)
    assert said["streams"] > 3, "who watches goes on after each"
    assert said["answers"]["connections"] == said["keeping"], "systemd keeps their connections"


MANY = """
import resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
many = [socket.create_connection(("127.0.0.1", 8006), timeout=20) for _ in range(1500)]
for sock in many:  # so that all have been accepted
    sock.sendall(b"GET /livez HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    assert sock.recv(4096).endswith(b"ok\\n")
print("there", flush=True)
input()
kept = closed = 0
for sock in many:
    sock.setblocking(False)
    try:
        closed += sock.recv(1) == b""
        continue
    except BlockingIOError:
        sock.settimeout(20)
    sock.sendall(b"GET /livez HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    assert sock.recv(4096).endswith(b"ok\\n")
    kept += 1
print(kept, closed)
"""


def test_more_connections_than_systemd_is_given_are_closed_and_the_others_go_on(box: Box) -> None:
    said = box.shell(
        f"cat > /run/many.py <<'END'\n{MANY}END\nmkfifo -m 600 /run/go /run/said\n"
        "trap 'rm /run/go /run/said' EXIT; /usr/bin/python3 /run/many.py < /run/go > /run/said & many=$!\n"
        "exec 3> /run/go 4< /run/said; read -r there <&4; systemctl restart registryd; echo >&3; cat <&4; wait $many"
    )

    assert said == "1000 500\n"


def test_the_auth_file_is_handed_over_as_a_credential(box: Box) -> None:
    (token,) = box.shell(
        "rm -f /etc/registryd.auth; /opt/registryd/bin/registryd token new --name a --allow read "
        "--auth-file /etc/registryd.auth"
    ).splitlines()
    drop_in(box, "[Service]\nLoadCredential=auth:/etc/registryd.auth\nEnvironment=REGISTRYD_AUTH_FILE=%d/auth\n")
    ask = "curl -s -o /dev/null -w '%{http_code} ' localhost:8006/services"
    statuses = f"{ask}; {ask} -H 'Authorization: Bearer {token}'"
    assert box.shell(statuses) == "401 200 "
    (entry,) = found(box, "REGISTRYD_EVENT=refused")
    assert entry["REGISTRYD_REQUEST"] == "GET /services"
    assert entry["REGISTRYD_PEER"] in {"127.0.0.1", "::1"}

    box.shell("echo > /etc/registryd.auth; systemctl restart registryd")
    assert box.shell(statuses) == "401 401 "


def test_a_reload_tells_the_truth(box: Box) -> None:
    pid = box.property("MainPID")
    box.shell("echo HEARTBEAT_TIMEOUT=7.5 >> /etc/default/registryd; systemctl reload registryd")
    assert fetch(box, "/status")["heartbeat_timeout"] == 7.5

    box.shell("echo HEARTBEAT_TIMEOUT=soon >> /etc/default/registryd")
    assert box.run("systemctl", "reload", "registryd", check=False).returncode == 1
    assert fetch(box, "/status")["heartbeat_timeout"] == 7.5, "the old one is in force"
    assert (box.property("MainPID"), box.property("ActiveState")) == (pid, "active")


def test_the_watchdog_restarts_a_stuck_loop(box: Box) -> None:
    drop_in(box, "[Service]\nWatchdogSec=1\nRestartSec=100ms\n")
    pid = box.property("MainPID")
    box.shell(f"kill -STOP {pid}")
    wait_for_restart(box, pid)

    assert fetch(box, "/status")["status"] == "ok"
    assert box.property("NRestarts") == "1"
    box.shell("journalctl --sync; journalctl -u registryd --no-pager | grep -q 'Watchdog timeout'")


def test_a_fed_watchdog_leaves_it_alone(box: Box) -> None:
    drop_in(box, "[Service]\nWatchdogSec=1\n")
    before = int(box.property("WatchdogTimestampMonotonic"))
    fed = f"[ $(systemctl show -P WatchdogTimestampMonotonic registryd) -gt {before + 2_000_000} ]"
    box.shell(f"timeout 20 bash -c 'until {fed}; do sleep 0.05; done'")

    assert (box.property("ActiveState"), box.property("NRestarts")) == ("active", "0")


def test_settings_come_from_etc_default(box: Box) -> None:
    box.shell("echo HEARTBEAT_TIMEOUT=7.5 >> /etc/default/registryd; systemctl restart registryd")

    assert fetch(box, "/status")["heartbeat_timeout"] == 7.5


def test_the_example_changes_nothing_and_names_real_settings(box: Box) -> None:
    example = box.shell("cat /etc/default/registryd")
    known = {name: setting.default for setting in settings() for name in setting.env}
    shown = dict(re.findall(r"^#(\w+)=(.*)$", example, re.MULTILINE))

    assert not [line for line in example.splitlines() if line and not line.startswith("#")]
    assert shown
    for name, value in shown.items():
        default = known[name]
        assert value == (f"{default:g}" if isinstance(default, float) else str(default))


def test_a_bad_setting_fails_the_start_with_its_line_and_is_not_retried(box: Box) -> None:
    box.shell("echo HEARTBEAT_TIMEOUT=soon >> /etc/default/registryd")
    assert box.run("systemctl", "restart", "registryd", check=False).returncode == 1

    assert (box.property("ActiveState"), box.property("ExecMainStatus")) == ("failed", "2")
    assert box.property("NRestarts") == "0"
    messages = [entry["MESSAGE"] for entry in box.journal() if entry["PRIORITY"] == "2"]
    (message,) = messages
    assert re.fullmatch(
        r"registryd: /etc/default/registryd line \d+: HEARTBEAT_TIMEOUT: 'soon' cannot be used; "
        "give a number of seconds from 1 to 86400",
        message,
    )


def test_a_bad_setting_does_not_spin_though_clients_knock_and_is_mended_by_a_restart(box: Box) -> None:
    box.shell("echo HEARTBEAT_TIMEOUT=soon >> /etc/default/registryd; systemctl stop registryd")
    # They knock until they are refused (7), as the socket has had enough.
    box.shell("timeout 60 bash -c 'until curl -s -m 50 -o /dev/null localhost:8006/livez; [ $? = 7 ]; do :; done'")

    assert box.property("Result", "registryd.socket") == "trigger-limit-hit"
    assert box.property("ActiveState") == "failed"

    box.shell("sed -i '$d' /etc/default/registryd; systemctl restart registryd; curl -fsS localhost:8006/livez")
