"""systemd/install: installs, upgrades under load, puts back what does not work, and leaves nothing behind."""

import json
import re
from typing import Any

import pytest
from box import Box
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pins import pins
from readme import block

pytestmark = [pytest.mark.systemd, pytest.mark.e2e]

UNITS = "/usr/local/lib/systemd/system"
#: What goes on changing on a running host, whoever does what: the journal, and what systemd itself keeps.
_ALIVE = re.compile(r"-?/var/(log|lib/systemd)/")
#: Makes a checkout one of a later version.
NEWER = "sed -i 's/^__version__ = .*/__version__ = \"0.1.1\"/' registryd/__init__.py"
#: Knocks on new connections until the file /run/enough is there; then says how many were answered, and how many not.
_KNOCK = """
import os, urllib.request
os.nice(10)  # others need the processor, too
answered = refused = 0
while not os.path.exists("/run/enough"):
    try:
        urllib.request.urlopen("http://127.0.0.1:8006/livez", timeout=20).read()
        answered += 1
    except OSError:
        refused += 1
print(answered, refused)
"""


def fetch(box: Box, path: str) -> Any:
    return json.loads(box.run("curl", "-sS", f"localhost:8006{path}").stdout)


def changed_checkout(box: Box, name: str, *seds: str) -> str:
    """A copy of the checkout with files changed (`script file`); gives back its installer."""
    box.shell(f"rm -rf /srv/{name}; cp -r /srv/registryd /srv/{name}; cd /srv/{name}\n" + "\n".join(seds))
    return f"/srv/{name}/systemd/install"


def nothing_else_is_left(box: Box) -> bool:
    """Whether there is one version, and no other beside it."""
    return box.shell("ls -d /opt/registryd*") == "/opt/registryd\n"


def test_it_serves_and_comes_back_at_boot(box: Box) -> None:
    assert fetch(box, "/status")["status"] == "ok"
    assert box.run("systemctl", "is-enabled", "registryd.service", "registryd.socket").stdout == "enabled\n" * 2
    assert box.run("stat", "-c", "%a %U", "/opt/registryd").stdout == "755 root\n"
    assert box.shell("grep -rlIF /opt/registryd.new /opt/registryd/bin /opt/registryd/pyvenv.cfg || true") == ""


def test_registryctl_is_at_hand_with_its_man_page_and_completions(box: Box) -> None:
    assert json.loads(box.run("registryctl", "status", "--json").stdout)["status"] == "ok"
    for name, place in (
        ("1", "man/man1/registryctl.1"),
        ("bash", "bash-completion/completions/registryctl"),
        ("zsh", "zsh/site-functions/_registryctl"),
        ("fish", "fish/vendor_completions.d/registryctl.fish"),
    ):
        box.run("cmp", f"/srv/registryd/registryd/ctl/shipped/registryctl.{name}", f"/usr/local/share/{place}")


def test_an_upgrade_refuses_nobody_and_keeps_state_settings_and_socket(box: Box) -> None:
    box.shell(
        "echo HEARTBEAT_TIMEOUT=7.5 >> /etc/default/registryd; rm -f /run/enough\n"
        "curl -sS localhost:8006/register -d "
        """'{"service_name": "users", "base_url": "http://10.0.0.5:8000", "ttl": 600}'"""
    )
    changed_checkout(
        box,
        "newer",
        NEWER,
        "echo '# a change' >> systemd/registryd.socket",
    )
    before = {name: box.property("InactiveExitTimestampMonotonic", name) for name in ("registryd", "registryd.socket")}
    install = block("Under systemd", "sh", 0)
    # What a run leaves behind that is killed while it builds.
    box.shell("mkdir -p /opt/registryd.new/bin")
    said = box.shell(
        f"/usr/bin/python3 -c '{_KNOCK}' > /run/knocked & knocker=$!\n"
        "cd /srv/newer; export PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/registryd/wheels\n"
        f"{install}\ntouch /run/enough; wait $knocker"
    )
    answered, refused = map(int, box.shell("cat /run/knocked").split())

    assert "registryd 0.1.1 has taken over and serves http://127.0.0.1:8006\n" in said
    assert "registryd.socket has changed, which takes effect with: systemctl restart registryd.socket\n" in said
    assert (answered > 50, refused) == (True, 0)
    assert box.property("InactiveExitTimestampMonotonic", "registryd.socket") == before["registryd.socket"]
    assert box.property("InactiveExitTimestampMonotonic") != before["registryd"]
    status = fetch(box, "/status")
    assert (status["version"], status["instances"], status["heartbeat_timeout"]) == ("0.1.1", 1, 7.5)
    assert nothing_else_is_left(box)


def test_a_version_that_cannot_be_built_disturbs_nobody(box: Box) -> None:
    pid = box.property("MainPID")
    install = changed_checkout(box, "broken", "echo 'raise SystemExit(3)' >> setup.py")
    ran = box.run(install, "--wheels", "/srv/registryd/wheels", check=False)

    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == "install: the new version cannot be built, see above; nothing has changed"
    assert (box.property("MainPID"), box.property("ActiveState")) == (pid, "active")
    assert nothing_else_is_left(box)


def test_what_is_installed_is_what_is_pinned(box: Box) -> None:
    listed = map(Requirement, box.run("/opt/registryd/bin/pip", "list", "--format=freeze").stdout.splitlines())
    installed = {str(canonicalize_name(requirement.name)): requirement.specifier for requirement in listed}

    assert installed.pop("registryd")
    assert installed.pop("pip")  # the system's own, from python3-venv
    assert installed == {name: pin.requirement.specifier for name, pin in pins().items()}


def test_a_package_that_is_not_the_pinned_one_disturbs_nobody(box: Box) -> None:
    listing = (
        "find /opt/registryd /usr/local/lib/systemd /etc/default/registryd -type f -exec sha256sum {} + | sort; "
        "systemctl show -P MainPID registryd"
    )
    box.shell("rm -rf /srv/other; cp -r /srv/registryd/wheels /srv/other; echo >> /srv/other/msgspec-*.whl")
    before = box.shell(listing)
    ran = box.run("/srv/registryd/systemd/install", "--wheels", "/srv/other", check=False)

    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        f"install: {pins()['msgspec'].requirement} from /srv/other is none whose hash is in systemd/requirements.txt; "
        "fetch it anew as README.md says; nothing has changed"
    )
    assert len(ran.stderr.splitlines()) < 10  # and not all the hashes that would have done
    assert box.shell(listing) == before
    assert nothing_else_is_left(box)


@pytest.mark.parametrize("first_run", ["ended well", "was cut off, and the rest done by hand"])
def test_a_version_that_does_not_start_gives_way_to_the_old_one(box: Box, first_run: str) -> None:
    if first_run != "ended well":
        box.shell("rm /opt/registryd/share/registryd/started")
    install = changed_checkout(
        box,
        "dead",
        "sed -i 's/^    return await Server/    raise SystemExit(5)\\n&/' registryd/cli.py",
        "sed -i 's/^Description=.*/Description=does not start/' systemd/registryd.service",
    )
    ran = box.run(install, "--wheels", "/srv/registryd/wheels", check=False)

    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert last == "install: the new version does not start, see above; the old one is back and serves"
    assert "status=5" in ran.stderr
    assert fetch(box, "/status")["status"] == "ok"
    assert box.property("Description") == "registryd service registry"
    assert box.property("NeedDaemonReload") == "no"
    assert nothing_else_is_left(box)


def test_an_upgrade_that_is_cut_off_starts_nothing_that_was_stopped(box: Box) -> None:
    box.shell("systemctl stop registryd.socket registryd.service")
    version = box.shell("/opt/registryd/bin/registryd --version")
    install = changed_checkout(
        box,
        "newer",
        NEWER,
        "sed -i 's/^    place_settings$/    kill -TERM $$; sleep 9/' systemd/install",
    )
    ran = box.run(install, "--wheels", "/srv/registryd/wheels", check=False)

    assert ran.returncode == 143
    assert "install: cut off in the middle of the upgrade; the old version is back" in ran.stderr
    assert box.run("systemctl", "is-active", "registryd", "registryd.socket", check=False).stdout == "inactive\n" * 2
    assert box.shell("/opt/registryd/bin/registryd --version") == version
    assert nothing_else_is_left(box)


def test_an_upgrade_that_was_cut_off_is_undone_by_the_next_run_even_if_that_fails(box: Box) -> None:
    # It was killed when the new version was in place and had not started.
    box.shell(
        "mv /opt/registryd /opt/registryd.old; mkdir -p /opt/registryd/bin /srv/few; "
        "cp /srv/registryd/wheels/setuptools-*.whl /srv/few; systemctl kill -s KILL registryd"
    )
    ran = box.run("/srv/registryd/systemd/install", "--wheels", "/srv/few", check=False)

    assert ran.returncode == 1
    assert "an upgrade was cut off; putting the version before it back" in ran.stdout
    assert re.search(r"^install: there is no wheel of \w+\S* in /srv/few that fits", ran.stderr.splitlines()[-1])
    assert fetch(box, "/status")["status"] == "ok"
    assert nothing_else_is_left(box)


@pytest.mark.parametrize(
    ("command", "status", "line"),
    [
        ("--frob", 2, "install: there is no option --frob; see systemd/install --help"),
        ("--purge", 2, "install: --purge goes with --uninstall; see systemd/install --help"),
        ("--wheels", 2, "install: --wheels needs a folder; see systemd/install --help"),
        ("--wheels /nowhere", 1, "install: there is no folder /nowhere; README.md says how to make it"),
        ("--wheels /etc", 1, "install: there is no wheel in /etc; README.md says how to fill it"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(box: Box, command: str, status: int, line: str) -> None:
    ran = box.run("/srv/registryd/systemd/install", *command.split(), check=False)

    assert (ran.returncode, ran.stdout, ran.stderr) == (status, "", line + "\n")


def test_it_needs_root_and_helps_everybody(installed: Box) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/srv/registryd/systemd/install")
    ran = installed.run(*nobody, check=False)
    assert (ran.returncode, ran.stderr) == (1, "install: this needs root: sudo systemd/install\n")

    assert "--uninstall --purge" in installed.run(*nobody, "--help").stdout


def test_two_at_once_are_one_too_many(installed: Box) -> None:
    ran = installed.run("flock", "/opt", "/srv/registryd/systemd/install", check=False)

    assert (ran.returncode, ran.stderr) == (1, "install: another run of this is under way; wait until it has ended\n")


def test_what_is_removed_leaves_settings_and_state_and_what_is_purged_leaves_nothing(box: Box) -> None:
    box.shell(
        "echo '# mine' >> /etc/default/registryd; mkdir -p /etc/systemd/system/registryd.socket.d; "
        "printf '[Socket]\\nBacklog=100\\n' > /etc/systemd/system/registryd.socket.d/override.conf; "
        "mkdir -p /etc/registryd/announce; printf 'SERVICE=x\\nURL=http://x\\n' > /etc/registryd/announce/dbus; "
        "systemctl enable -q registryd-announce@dbus"
    )
    try:
        said = box.shell("/srv/registryd/systemd/install --uninstall")
        assert "its settings (/etc/default/registryd) and its state (/var/lib/registryd) are kept" in said
        assert (
            box.run("systemctl", "is-active", "registryd", "registryd.socket", check=False).stdout == "inactive\n" * 2
        )
        assert box.run("systemctl", "cat", "registryd", check=False).returncode == 1
        box.shell("tail -n 1 /etc/default/registryd | grep -q mine; test -s /var/lib/private/registryd/registryd.db")
        box.shell("test -s /etc/registryd/announce/dbus; ! command -v registryctl")
        assert "not installed" in box.shell("/srv/registryd/systemd/install --uninstall")

        box.shell("/srv/registryd/systemd/install --uninstall --purge")
        box.shell(
            "rm -rf /srv/newer /srv/broken /srv/dead /srv/few /srv/other /etc/registryd.auth"
        )  # what tests have made
        difference = box.changed() ^ box.changed_before_installing
        assert {name for name in difference if not _ALIVE.match(name)} == set()
    finally:
        box.shell("/srv/registryd/systemd/install --wheels /srv/registryd/wheels")
