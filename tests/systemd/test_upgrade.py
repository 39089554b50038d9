"""Upgraded while clients knock, upgraded to what is broken, and taken away again: the last tests in the box."""

import pytest
from box import Box

pytestmark = [pytest.mark.systemd, pytest.mark.e2e]

INSTALL = "cd /srv/registryd; systemd/install"
AGAIN = f"{INSTALL} --wheels /srv/wheels"
SOCKET_SINCE = "systemctl show -P ActiveEnterTimestampMonotonic registryd.socket"
#: Knocks until the file is there, each time on a new connection; then says how often in vain, and how often in all.
KNOCK = """
n=0; bad=0
until [ -e /run/enough ]; do
    curl -fs -m 20 -o /dev/null localhost:8006/services/users || bad=$((bad + 1)); n=$((n + 1))
done
echo "$bad $n" > /run/knocked
"""


def test_an_upgrade_refuses_nobody_and_loses_nothing(installed: Box) -> None:
    box = installed
    box.shell(
        "systemctl reset-failed registryd; "
        "install -m 644 /srv/registryd/systemd/registryd.default /etc/default/registryd; "
        "rm -rf /run/systemd/system/registryd.service.d; systemctl daemon-reload; systemctl restart registryd; "
        "curl -fs localhost:8006/register -o /dev/null -d "
        """'{"service_name": "users", "base_url": "http://h", "instance_id": "users-1", "ttl": 3600}'; """
        "echo '#mine' >> /etc/default/registryd"
    )
    before = box.property("MainPID"), box.shell(SOCKET_SINCE)
    box.shell(
        f"rm -f /run/enough; cat > /run/knock <<'END'\n{KNOCK}END\nbash /run/knock & {AGAIN}; touch /run/enough; wait"
    )
    after = box.property("MainPID"), box.shell(SOCKET_SINCE)

    assert after[0] != before[0], "the service was restarted"
    assert after[1] == before[1], "and its socket was not"
    refused, knocked = box.shell("cat /run/knocked").split()
    assert (refused, int(knocked) > 10) == ("0", True)
    assert '"users-1"' in box.shell("curl -s localhost:8006/services/users")
    assert box.shell("tail -n 1 /etc/default/registryd") == "#mine\n", "the operator's settings are left alone"


@pytest.mark.parametrize("wrong", ["this is no Python", "import sys; sys.exit('planted')"])
def test_what_cannot_be_built_leaves_the_old_alone(installed: Box, wrong: str) -> None:
    box = installed
    pid = box.property("MainPID")
    box.shell(f'rm -rf /srv/broken; cp -r /srv/registryd /srv/broken; echo "{wrong}" >> /srv/broken/setup.py')
    ran = box.run("/srv/broken/systemd/install", "--wheels", "/srv/wheels", check=False)

    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == "install: the new version cannot be built, see above; nothing has changed"
    assert box.property("MainPID") == pid


def test_what_does_not_start_is_replaced_by_the_old(installed: Box) -> None:
    box = installed
    box.shell(
        "rm -rf /srv/broken; cp -r /srv/registryd /srv/broken; "
        "sed -i 's/^    MonotonicIOLoop()/&/; s/^async def _serve.*/&\\n    raise RuntimeError(\"planted\")/' "
        "/srv/broken/registryd/cli.py"
    )
    ran = box.run("/srv/broken/systemd/install", "--wheels", "/srv/wheels", check=False)

    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        "install: the new version does not start, see above; the old one is back and serves"
    )
    assert '"users-1"' in box.shell("curl -fs localhost:8006/services/users")
    assert box.shell("ls -d /opt/registryd*") == "/opt/registryd\n"


@pytest.mark.parametrize(
    ("args", "status", "line"),
    [
        ("--wheels /nowhere", 1, "install: there is no folder /nowhere; README.md says how to make it"),
        ("--faster", 2, "install: there is no option --faster; see systemd/install --help"),
        ("--purge", 2, "install: --purge goes with --uninstall; see systemd/install --help"),
    ],
)
def test_wrong_usage_is_one_line(installed: Box, args: str, status: int, line: str) -> None:
    ran = installed.run("/srv/registryd/systemd/install", *args.split(), check=False)

    assert (ran.returncode, ran.stderr) == (status, line + "\n")


def test_uninstall_leaves_settings_and_state_and_purge_leaves_nothing(installed: Box) -> None:
    box = installed
    box.shell(f"{INSTALL} --uninstall")
    left = box.shell(
        "ls -d /opt/registryd* /usr/local/lib/systemd /etc/default/registryd /var/lib/registryd 2>&1 || true"
    )
    assert [line for line in left.splitlines() if line.startswith("/")] == [
        "/etc/default/registryd", "/var/lib/registryd",
    ]  # fmt: skip
    box.shell(f"{INSTALL} --uninstall --purge")

    assert box.shell("/srv/list-files | diff /srv/files-before -") == ""
