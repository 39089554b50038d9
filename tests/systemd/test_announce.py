"""registryd-announce@.service under a real systemd: a unit that knows nothing of registryd is listed while it runs."""

import json
from collections.abc import Iterator

import pytest
from box import Box
from readme import block

pytestmark = [pytest.mark.systemd, pytest.mark.e2e]

UNIT = "/usr/local/lib/systemd/system/registryd-announce@.service"
#: Something that listens; when it is told to stop it says who is listed then.
PAGES = """[Service]
Type=exec
ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 8002
ExecStop=/bin/sh -c "curl -s localhost:8006/services/pages > /run/listed-at-the-stop"
Restart=on-failure
RestartSec=200ms
"""


@pytest.fixture
def announced(box: Box) -> Iterator[Box]:
    """The box with the README's own file, and the unit that it announces, enabled."""
    box.shell(
        f"cat > /run/systemd/system/pages.service <<'END'\n{PAGES}\nEND\n"
        f"mkdir -p /etc/registryd/announce; cat > /etc/registryd/announce/pages <<'END'\n"
        f"{block('Under systemd', 'ini')}\nEND\nsystemctl daemon-reload; {block('Under systemd', 'sh', 4)}"
    )
    yield box
    box.shell(
        "systemctl disable --now registryd-announce@pages; systemctl stop pages; rm -r /etc/registryd "
        "/run/systemd/system/pages.service; systemctl daemon-reload; systemctl reset-failed"
    )


def listed(box: Box) -> list[str]:
    answer = json.loads(box.run("curl", "-s", "localhost:8006/services/pages").stdout)
    return [instance["instance_id"] for instance in answer["instances"]]


def wait(box: Box, least: int) -> None:
    """Waits until as many are listed; 0: until nobody is."""
    count = "registryctl get pages --urls 2>/dev/null | wc -l"
    box.shell(f"timeout 20 bash -c 'until [ \"$({count})\" = {least} ]; do sleep 0.05; done'")


def test_the_unit_is_sound_and_its_sandbox_tight(box: Box) -> None:
    verified = box.run("systemd-analyze", "verify", "--man=no", UNIT.replace("@", "@registryd"), check=False)
    ran = box.run(
        "systemd-analyze", "security", "--threshold=15", "--no-pager", "registryd-announce@x.service", check=False
    )

    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    assert ran.returncode == 0, ran.stdout


def test_what_runs_is_listed_and_what_is_stopped_is_off_the_list_before(announced: Box) -> None:
    host = announced.run("hostname").stdout.strip()
    wait(announced, 1)
    assert listed(announced) == [f"pages@{host}"]
    announced.shell("systemctl stop pages")
    assert json.loads(announced.shell("cat /run/listed-at-the-stop"))["count"] == 0
    assert listed(announced) == []
    assert announced.property("Result", "registryd-announce@pages") == "success"

    announced.shell("systemctl start pages")
    wait(announced, 1)


def test_what_crashes_is_off_the_list_and_on_it_again_when_it_is_back(announced: Box) -> None:
    wait(announced, 1)
    index = json.loads(announced.run("curl", "-s", "localhost:8006/status").stdout)["index"]
    announced.shell("systemctl kill -s KILL pages")
    announced.shell(f"curl -s 'localhost:8006/services/pages?index={index}&wait=20s' >/dev/null")
    wait(announced, 1)

    events = json.loads(announced.run("registryctl", "explain", "pages", "--json").stdout)["instances"][0]["events"]
    assert [event["event"] for event in events][-3:] == ["registered", "deregistered", "registered"]


RUN = """[Service]
KillMode=mixed
ExecStart=/usr/local/bin/registryctl run --service ran --url http://127.0.0.1:8003 -- /bin/sh /run/ran
"""
#: Asks who is listed when it is told to stop.
RAN = """
trap 'curl -s localhost:8006/services/ran > /run/ran-at-the-stop; exit 0' TERM
/usr/bin/python3 -m http.server --bind 127.0.0.1 8003 & wait
"""


def test_a_unit_under_registryctl_run_is_off_the_list_before_it_is_told_to_stop(box: Box) -> None:
    box.shell(
        f"cat > /run/systemd/system/ran.service <<'END'\n{RUN}\nEND\ncat > /run/ran <<'END'\n{RAN}\nEND\n"
        "systemctl daemon-reload; systemctl start ran; registryctl wait ran; systemctl stop ran"
    )
    assert json.loads(box.shell("cat /run/ran-at-the-stop"))["count"] == 0
    assert (box.property("Result", "ran"), box.property("ExecMainStatus", "ran")) == ("success", "0")
    box.shell("rm /run/systemd/system/ran.service /run/ran /run/ran-at-the-stop; systemctl daemon-reload")


def test_a_file_that_cannot_be_used_is_said_in_the_journal_and_stops_nothing(announced: Box) -> None:
    announced.shell("sed -i 's/^SERVICE=.*/SERVICE=bad name/' /etc/registryd/announce/pages; systemctl restart pages")
    announced.shell(
        "timeout 20 bash -c 'until systemctl is-failed -q registryd-announce@pages; do sleep 0.05; done'\n"
        "journalctl --sync"
    )
    said = announced.shell("journalctl -u registryd-announce@pages -o cat --no-pager")

    assert "registryctl: the registry refuses this registration: service_name: " in said
    assert announced.property("ExecMainStatus", "registryd-announce@pages") == "2"
    assert announced.property("ActiveState", "pages") == "active"
