"""A box: a real systemd with a real journal, as PID 1 of namespaces of its own, over a throw-away layer on /."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parent / "systemd/box.sh"


class Box:
    """Boots in `folder`; files put under `folder/upper` before are in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._holder: subprocess.Popen[str] | None = None
        #: What `changed` gave before registryd was installed.
        self.changed_before_installing: set[str] = set()

    @staticmethod
    def why_not() -> str:
        """Why this machine cannot boot one; empty where it can."""
        ran = subprocess.run(["bash", "-c", f". '{SCRIPT}'; box_why_not"], capture_output=True, text=True, check=False)
        return "" if ran.returncode == 0 else ran.stdout.strip() or ran.stderr.strip()

    def prepare(self) -> None:
        """Makes the empty layer."""
        subprocess.run(["bash", "-c", f". '{SCRIPT}'; box_prepare '{self.folder}' /"], check=True)

    def boot(self) -> None:
        """Boots, and waits until systemd says that it is running."""
        self._holder = subprocess.Popen(
            ["bash", str(SCRIPT), "hold", str(self.folder), "/"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline().strip() == "up"

    def end(self) -> None:
        """Takes it down and removes its folder."""
        if self._holder is not None:
            assert self._holder.stdin is not None
            assert self._holder.stdout is not None
            self._holder.stdin.close()
            self._holder.wait(30)
            self._holder.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command in it."""
        ran = subprocess.run(
            ["bash", str(SCRIPT), "exec", str(self.folder), *argv],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip
        assert ran.returncode == 0 or not check, f"{argv}: {ran.stdout}{ran.stderr}"
        return ran

    def shell(self, script: str, check: bool = True) -> str:
        """Runs a shell script in it; gives back what it wrote."""
        return self.run("/bin/bash", "-ec", script, check=check).stdout

    def journal(self, unit: str = "registryd") -> list[dict[str, Any]]:
        """All that the journal has of a unit's own process, in its current life."""
        invocation = self.run("systemctl", "show", "-P", "InvocationID", unit).stdout.strip()
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "-o", "json", "--no-pager", f"_SYSTEMD_INVOCATION_ID={invocation}").stdout
        return [json.loads(line) for line in lines.splitlines()]

    def changed(self) -> set[str]:
        """What files of / the box has made (their path), or taken away (the same with a minus in front)."""
        found = set()
        upper = self.folder / "upper"
        for path in upper.rglob("*"):
            name = f"/{path.relative_to(upper)}"
            if path.is_char_device():  # so the layer says that what is below it is gone
                found.add(f"-{name}")
            elif not os.path.lexists(name):
                found.add(name)
        return found

    def property(self, name: str, unit: str = "registryd") -> str:
        """A property of a unit, as systemd shows it."""
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()
