"""Each command against a real registry: what it shows people, what it tells programs, and how it ends."""

import json
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from process import Process, RunningDaemon, StartDaemon
from scripted import Answer, Scripted, answered
from terminal import CTL, Ctl, Terminal

from registryd.auth import new_token
from registryd.ctl.statuses import Status

pytestmark = pytest.mark.e2e

NOBODY = "http://127.0.0.1:1"


def test_the_services_are_listed(here: Ctl, registry_daemon: RunningDaemon) -> None:
    registry_daemon.register("listed-b")
    registry_daemon.register("listed-a", status="down")
    ran = here("services")

    rows = [line.split() for line in ran.out.splitlines()]
    assert rows[0] == ["SERVICE", "UP", "INSTANCES"]
    assert [row for row in rows if row[0].startswith("listed")] == [["listed-a", "0", "1"], ["listed-b", "1", "1"]]
    assert json.loads(here("services --json").out)["services"]["listed-a"] == {"count": 1, "up": 0}


def test_instances_are_chosen_as_the_registry_has_it(here: Ctl, registry_daemon: RunningDaemon) -> None:
    about = {"version": "1.4.2", "zone": "eu-1", "tags": ["canary"], "metadata": {"team": "core"}}
    registry_daemon.register("chosen", instance_id="c-1", **about)
    registry_daemon.register("chosen", instance_id="c-2", base_url="http://10.0.0.6:8000", zone="eu-2")
    registry_daemon.register("chosen", instance_id="c-3", status="starting")

    assert here("get chosen --urls").out == "http://10.0.0.5:8000\nhttp://10.0.0.6:8000\n"
    assert here("get chosen --near eu-2 --limit 1 --urls").out == "http://10.0.0.6:8000\n"
    fits = "--tag canary --version 1.4.2 --zone eu-1 --meta team=core"
    (found,) = json.loads(here(f"get chosen --json --pick {fits}").out)["instances"]
    assert found["instance_id"] == "c-1"
    header, *rows = here("get chosen --status up,starting").out.splitlines()
    assert header.split() == ["INSTANCE", "URL", "STATUS", "VERSION", "ZONE", "HEARTBEAT", "TAGS", "METADATA"]
    assert [row.split()[0] for row in rows] == ["c-1", "c-2", "c-3"]
    assert rows[0].split()[3:5] == ["1.4.2", "eu-1"]
    assert rows[0].endswith("canary  team=core")


def test_who_asks_for_what_nobody_is_gets_a_line_and_a_status(here: Ctl) -> None:
    said = "registryctl: no instance of nobody fits; registryctl explain nobody says why\n"

    assert here("get nobody") == (Status.NO, "", said)
    ran = here("get nobody --json")
    assert (ran.status, json.loads(ran.out)["count"]) == (Status.NO, 0)


def test_an_instance_is_registered_drained_resumed_and_deregistered(here: Ctl, registry_daemon: RunningDaemon) -> None:
    about = "--ttl 2m --status up --tag a --tag b --version 2 --zone eu-1 --weight 3 --meta team=core"
    ran = here(f"register --service moved --url http://10.0.0.7:1 --id moved/1 {about}")
    assert ran.status == Status.MISUSED
    ran = here(f"register --service moved --url http://10.0.0.7:1 --id moved:1 {about}")
    assert ran.out == "registered moved:1 of moved; without heartbeats it ends in 120 s\n"
    told = registry_daemon.fetch("/instances/moved:1").json
    assert (told["ttl"], told["tags"], told["weight"], told["metadata"]) == (120, ["a", "b"], 3, {"team": "core"})

    ran = here("drain moved:1 --reason 'deploy 42' --for 10m")
    assert ran.status == Status.DONE
    assert ran.out.startswith("moved:1 of moved: draining; last handed out 20")
    override = registry_daemon.fetch("/instances/moved:1").json["override"]
    assert (override["status"], override["reason"]) == ("draining", "deploy 42")
    assert override["until"] is not None
    assert "draining (deploy 42, until 2" in here("get moved --status any").out
    assert json.loads(here("maintenance moved:1 --json").out)["status"] == "maintenance"
    assert here("resume moved:1").out == "moved:1 of moved: resumed\n"
    assert here("deregister moved:1").out == "moved:1 of moved: deregistered\n"
    ran = here("deregister moved:1")
    said = "no instance moved:1 is registered, or its lease has ended; registryctl explain moved:1 says more"
    assert ran == (Status.NO, "", f"registryctl: {said}\n")


def test_a_drain_waits_until_nobody_has_got_it_for_so_long(here: Ctl, registry_daemon: RunningDaemon) -> None:
    registry_daemon.register("quiet", instance_id="quiet-1")
    assert here("drain quiet-1 --wait 100ms").out.startswith("quiet-1 of quiet: draining; last handed out")

    ran = here("drain quiet-1 --wait 10s --timeout 0s")
    assert (ran.status, ran.out) == (Status.NO, "")
    assert "it is not certain after 0 s that nobody is handed quiet-1 any more" in ran.err


def test_it_is_explained_why(here: Ctl, registry_daemon: RunningDaemon) -> None:
    registry_daemon.register("why", instance_id="why-1", status="starting")
    registry_daemon.fetch("/drain/why-1", "POST", {"reason": "deploy 42"})
    ran = here("explain why")

    stories, events = ran.out.split("\n\n")
    assert stories.splitlines()[1].split()[:3] == ["why-1", "why", "no"]
    assert "an operator has laid draining over it" in stories
    assert [line.split()[1] for line in events.splitlines()[1:]] == ["registered", "updated"]
    assert "draining: deploy 42" in events
    assert json.loads(here("explain why-1 --json").out)["subject"] == "why-1"
    ran = here("explain never-seen")
    assert (ran.status, ran.out) == (Status.NO, "")
    assert ran.err.startswith("registryctl: never-seen: never seen")


def test_the_status_of_the_registry_is_the_status_of_the_command(
    here: Ctl, ctl: Ctl, registry_daemon: RunningDaemon
) -> None:
    ran = here("status")
    rows = dict(line.split(maxsplit=1) for line in ran.out.splitlines())
    assert (ran.status, rows["REGISTRY"], rows["status"]) == (Status.DONE, registry_daemon.url, "ok")
    assert rows["store.kind"] == "memory"

    degraded = {"status": "degraded", "reasons": ["suspects", "store_slow"]}
    with closing(Scripted(lambda asked: answered(degraded))) as sick:
        ran = ctl("status", registry=sick.url)
        assert ran.status == Status.NO
        assert "reasons   suspects store_slow" in ran.out
        assert json.loads(ctl("status --json", registry=sick.url).out) == degraded


def test_enough_instances_are_waited_for(here: Ctl, registry_daemon: RunningDaemon) -> None:
    environ = {"REGISTRY_URL": registry_daemon.url}
    registry_daemon.register("awaited")
    with Process([*CTL, "wait", "awaited", "--min", "2", "--timeout", "20s", "--json"], environ) as waiting:
        registry_daemon.register("awaited")
        assert json.loads(waiting.wait_for_line(r"^\{.*")[0])["count"] == 2
        assert waiting.wait() == Status.DONE

    assert here("wait awaited --min 2 --timeout 0s") == (Status.DONE, "", "")
    said = "there are not 3 instances of awaited that fit, after 0.1 s; registryctl explain awaited says why"
    assert here("wait awaited --min 3 --timeout 100ms") == (Status.NO, "", f"registryctl: {said}\n")


def test_a_registry_that_comes_while_it_is_waited_for_is_found(start_daemon: StartDaemon) -> None:
    first = start_daemon()
    port = first.url.rpartition(":")[2]
    first.signal(signal.SIGTERM)
    first.wait()
    with Process([*CTL, "wait", "users", "--timeout", "20s"], {"REGISTRY_URL": first.url}) as waiting:
        start_daemon("--port", port).register("users")
        assert waiting.wait() == Status.DONE


def test_changes_are_told_as_they_come_over_a_restart_of_the_registry(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    keep = "--state-dir", str(tmp_path / "state")
    first = start_daemon(*keep)
    first.register("seen", instance_id="seen-1")
    first.register("other")
    environ = {"REGISTRY_URL": first.url}
    with (
        Process([*CTL, "watch", "seen"], environ) as people,
        Process([*CTL, "watch", "--json", "seen"], environ) as programs,
    ):
        people.wait_for_line(r"^\d\d:\d\d:\d\d listed       seen seen-1 http://10.0.0.5:8000 up$")
        snapshot = json.loads(programs.wait_for_line(r"^\{.*snapshot.*")[0])
        assert [instance["instance_id"] for instance in snapshot["data"]["instances"]] == ["seen-1"]
        first.signal(signal.SIGTERM)
        first.wait()
        people.wait_for_line("registryctl: lost the registry: .*; trying again")
        second = start_daemon(*keep, "--port", first.url.rpartition(":")[2])
        people.wait_for_line("registryctl: watching again; ")
        programs.wait_for_line("registryctl: watching again; ")
        second.fetch("/drain/seen-1", "POST", {"reason": "deploy\x1b[2J"})
        people.wait_for_line(r"^\S+ updated      seen seen-1 http://10.0.0.5:8000 draining \(deploy\\x1b\[2J\)$")
        event = json.loads(programs.wait_for_line(r'^\{"event": "updated.*')[0])
        assert event["index"] > snapshot["index"]
        assert "other" not in people.output
        for process in (people, programs):
            process.signal(signal.SIGINT)
            assert process.wait() == Status.INTERRUPTED


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("get", 2, "the following arguments are required: NAME; see registryctl get --help"),
        ("frob", 2, "argument COMMAND: invalid choice: 'frob' (choose from "),
        ("get users --frob", 2, "unrecognized arguments: --frob; see registryctl --help"),
        (
            "wait users --timeout 3parsecs", 2,
            "argument --timeout: '3parsecs' is no length of time; write 30s, 1m30s, 500ms or plain seconds; see",
        ),
        ("get users --limit -1", 2, "argument --limit: "),
        ("get users --limit 1e3", 2, "argument --limit: '1e3' is no number; see registryctl get --help"),
        ("get users --meta team", 2, "argument --meta: 'team' is not KEY=VALUE; see registryctl get --help"),
        ("run --service users --url http://h:1", 2, "run needs a command after --; see registryctl --help"),
        ("run --service users --url users -- true", 2, "cannot tell from 'users' where it accepts connections; say it"),
        ("run --service u --url http://h:1 --probe 8000 -- true", 2, "argument --probe: '8000' is not HOST:PORT; see"),
        ("get ''", 2, "argument NAME: it is empty; see registryctl get --help"),
        ("drain ''", 2, "argument ID: it is empty; see registryctl drain --help"),
        ("get \udcff", 2, "'\\udcff' is no text in the encoding of this terminal; see registryctl --help"),
        ("run --service users --url http://h..h:1 -- true", 2, "cannot tell from 'http://h..h:1' where it accepts"),
        ("services --registry http://h..h:1", 2, "'http://h..h:1': this is no http:// or https:// URL; set --registry"),
        ("services --registry ftp://h", 2, "'ftp://h': this is no http:// or https:// URL; set --registry or REGI"),
        ("services --registry http://h:99999", 2, "'http://h:99999': this is no http:// or https:// URL; set --"),
        ("services --token-file /nowhere/x", 2, "cannot read the token in /nowhere/x: No such file or directory; set"),
        (
            f"services --registry {NOBODY}", 3,
            f"no answer from the registry at {NOBODY}: Connection refused; is it running? --registry or REGISTRY_URL",
        ),
        (f"watch --registry {NOBODY}", 3, f"no answer from the registry at {NOBODY}: Connection refused; is it run"),
        (f"wait users --timeout 0s --registry {NOBODY}", 3, f"no answer from the registry at {NOBODY}: Connection"),
        ("services --registry http://u:secret@127.0.0.1:1", 3, "no answer from the registry at http://127.0.0.1:1: C"),
        ("register --service users --url http://h --probe h:1", 2, "--probe goes with --keep; see registryctl --help"),
        ("top", 2, "top needs a terminal; for programs there are registryctl services --json and watch --json"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_a_line(ctl: Ctl, command: str, status: int, said: str) -> None:
    ran = ctl(command)

    assert (ran.status, ran.out) == (status, "")
    assert ran.err.startswith(f"registryctl: {said}")
    assert ran.err.count("\n") == 1
    assert "secret" not in ran.err


@pytest.mark.parametrize(
    "said",
    [
        (404, "text/html", b"<h1>Not here</h1>"),
        (404, "application/problem+json", b'{"detail": "there is nothing at /x/y", "code": "unknown_path"}'),
        (200, "application/json", b"{}"),
        (200, "application/json", b"[1]"),
        (200, "application/json", b'{"services": [1], "instances": {"a": 1}, "status": 5, "instance_id": 7}'),
    ],
)
@pytest.mark.parametrize(
    "command", ["services", "watch", "get users", "explain users", "wait users", "drain a", "resume a", "status"]
)
def test_what_is_no_registry_is_said_in_a_line(ctl: Ctl, command: str, said: Answer) -> None:
    with closing(Scripted(lambda asked: said)) as wrong:
        ran = ctl(f"{command} --timeout 0s" if command.startswith("wait") else command, registry=wrong.url)

    assert (ran.status, ran.out) == (Status.NO_REGISTRY, "")
    assert ran.err.count("\n") == 1
    assert ran.err.startswith(f"registryctl: what answers at {wrong.url} ")
    assert ran.err.endswith("; set REGISTRY_URL\n")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("get 'bad name'", "service_name"),
        ("register --service 'bad name' --url http://h", "service_name"),
        ("register --keep --service 'bad name' --url http://h", "service_name"),
        ("register --service users --url nothing", "base_url"),
        ("register --service users --url http://h --ttl 0s", "ttl"),
        ("get users --status lost", "status"),
    ],
)
def test_what_the_registry_does_not_take_is_said_in_its_words(here: Ctl, command: str, said: str) -> None:
    ran = here(command)

    assert (ran.status, ran.out) == (Status.MISUSED, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_a_token_that_is_refused_is_said_in_a_line(ctl: Ctl, start_daemon: StartDaemon, tmp_path: Path) -> None:
    auth, shown = tmp_path / "auth.toml", tmp_path / "token"
    shown.write_text(new_token(str(auth), "reader", ["read"], ["*"]) + "\n")
    url = start_daemon("--auth-file", str(auth)).url
    hint = "; REGISTRY_TOKEN or --token-file says which token is shown\n"
    for command in ("services", "watch", "wait users", "register --service users --url http://h:1"):
        ran = ctl(command, registry=url)
        assert (ran.status, ran.out) == (Status.REFUSED, "")
        assert ran.err == f"registryctl: this registry needs a token: send it as Authorization: Bearer TOKEN{hint}"
    assert ctl("services", "--token-file", str(shown), registry=url).status == Status.DONE

    for command in ("register", "register --keep"):
        ran = ctl(f"{command} --service users --url http://h:1", "--token-file", str(shown), registry=url)
        assert (ran.status, ran.out) == (Status.REFUSED, "")
        assert "register" in ran.err
        assert ran.err.endswith(hint)


def test_a_reader_that_goes_away_and_a_full_disk_end_it_quietly(registry_daemon: RunningDaemon) -> None:
    command = f"{' '.join(CTL)} services --registry {registry_daemon.url}"
    script = f"{command} | true; echo ${{PIPESTATUS[0]}}; {command} >/dev/full; echo $?; {command} >&-; echo $?"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)

    assert ran.stdout == "141\n1\n0\n"
    assert ran.stderr == "registryctl: cannot write what there is to say: No space left on device\n"


def test_people_have_colours_and_a_table_that_fits_and_programs_have_none(
    here: Ctl, registry_daemon: RunningDaemon
) -> None:
    registry_daemon.register("coloured", instance_id="coloured-1", metadata={"evil": "\x1b]0;x\x07" + "m" * 100})
    argv = [*CTL, "get", "coloured", "--registry", registry_daemon.url]
    with Terminal(argv, {}, columns=100) as terminal:
        line = terminal.wait_for(r"coloured-1 .*\r\n")[0]
        assert terminal.wait() == 0
    assert "\x1b[32mup\x1b[0m" in line
    assert len(line.strip().replace("\x1b[32m", "").replace("\x1b[0m", "")) == 100
    assert r"evil=\x1b]0;x\x07m" in line
    assert line.strip().endswith("…")

    with Terminal(argv, {"NO_COLOR": "1"}) as terminal:
        assert "\x1b" not in terminal.wait_for(r"coloured-1 .*\r\n")[0]
    assert "m" * 100 in here("get coloured").out


def test_it_starts_without_what_it_does_not_need(registry_daemon: RunningDaemon) -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *CTL[1:], "services", "--registry", registry_daemon.url],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}

    assert "registryd.client.http" in loaded
    assert not {"tornado", "asyncio", "msgspec", "subprocess", "termios", "registryd.client.aio"} & loaded
