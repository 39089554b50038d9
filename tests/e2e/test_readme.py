"""The README, followed to the letter: every command runs, every sample is what comes out, every table is made.

What stands under "Under systemd" is followed in tests/systemd/.
"""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from process import Process, RunningDaemon, StartDaemon, fetch
from readme import ROOT, TEXT, Step, block, blocks, checkout, steps, tables, without_chance

pytestmark = pytest.mark.e2e

BIN = Path(sys.executable).parent


def run(command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environ},
    )  # fmt: skip


def test_no_block_is_left_out() -> None:
    assert [(b.heading, b.language) for b in blocks()] == [
        ("Start", "sh"),  # test_the_first_command_starts_the_daemon
        ("Start", "sh"),  # .ci/run, and test_ci_runs_the_tests_as_the_readme_says
        ("A tour", "console"),
        ("The client", "python"),
        ("The client", "sh"),
        ("The client", "python"),
        ("The client", "python"),
        ("The client", "python"),
        ("The client", "python"),
        ("The client", "python"),
        ("The command line", "console"),
        ("The command line", "sh"),
        ("The command line", "python"),
        ("The command line", "python"),
        ("The command line", "console"),
        ("Who may do what", "console"),  # tests/e2e/test_auth.py
        ("Under systemd", "sh"),  # tests/systemd/
        ("Under systemd", "sh"),
        ("Under systemd", "sh"),
        ("Under systemd", "console"),
        ("Under systemd", "sh"),
        ("Under systemd", "ini"),
        ("Under systemd", "sh"),  # tests/systemd/
        ("Prometheus", "yaml"),  # tests/e2e/test_prometheus.py
        ("How fast, how much", "sh"),  # tests/bench/test_bench.py
    ]


@pytest.mark.parametrize("name", sorted(tables()))
def test_the_tables_are_made_from_the_declarations(name: str) -> None:
    shown = TEXT.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- /{name} -->")[0]

    assert shown == tables()[name], "run tests/readme.py"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour is taken with curl, which is not installed")
def test_the_tour_is_what_comes_out(daemon: RunningDaemon) -> None:
    shown = steps(block("A tour", "console"))
    seen = []
    for step in shown:
        command = step.command.replace("localhost:8006", daemon.url.removeprefix("http://"))
        seen.append(Step(step.command, run(command).stdout))

    assert len(shown) >= 10
    assert [(s.command, without_chance(s.output)) for s in seen] == [
        (s.command, without_chance(s.output)) for s in shown
    ]


def test_the_fastapi_service_registers(daemon: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "users.py").write_text(block("The client", "python", 0))
    command = block("The client", "sh").strip().replace("http://localhost:8006", daemon.url)
    # Its port may be taken here; what it registers stays as it says.
    command = f"cd {tmp_path} && exec env {command}".replace("--port 8000", "--port 0")
    with Process(["bash", "-c", command], {"PATH": f"{BIN}:{os.environ['PATH']}"}) as app:
        at = app.wait_for_line(r"Uvicorn running on (http://\S+)")[1]
        assert fetch(at).json == {"hello": "from users"}
        (instance,) = daemon.fetch("/services/users").json["instances"]
        assert instance["base_url"] == "http://127.0.0.1:8000"
        app.signal(signal.SIGTERM)
        app.wait()
    assert daemon.fetch("/services").json["count"] == 0


def test_the_asyncio_program_registers(daemon: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "timelines.py").write_text(block("The client", "python", 1))
    ran = run(f"python {tmp_path}/timelines.py", REGISTRY_URL=daemon.url)

    assert ran.stderr == ""
    assert without_chance(ran.stdout) == "registered as UUID: True\n"
    daemon.wait_for_line("deregistered service=timelines")


def test_the_programs_of_tornado_and_flask_register(daemon: RunningDaemon, tmp_path: Path) -> None:
    with ExitStack() as stack:
        programs = {}
        for name, number, port in (("timelines", 2, 8001), ("media", 3, 8002)):
            (tmp_path / f"{name}.py").write_text(block("The client", "python", number).replace(str(port), "0"))
            environ = {"REGISTRY_URL": daemon.url}
            programs[name] = stack.enter_context(Process([sys.executable, str(tmp_path / f"{name}.py")], environ))
        for name, program in programs.items():
            daemon.wait_for_line(f"registered service={name} .*url=http://127.0.0.1:0 ")
            program.signal(signal.SIGTERM)
            assert program.wait() == 0
            daemon.wait_for_line(f"deregistered service={name} ")


def test_the_script_and_the_discovery_find_who_is_up(daemon: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(block("The client", "python", 4))
    (tmp_path / "discovery.py").write_text(block("The client", "python", 5))
    alone = run(f"python {tmp_path}/discovery.py", REGISTRY_URL=daemon.url)
    assert (alone.stdout, alone.stderr) == ("no instance of 'users' is up; the registry was heard 0 s ago\n", "")

    daemon.register(base_url="http://10.0.0.5:8000")
    found = run(f"python {tmp_path}/script.py", REGISTRY_URL=daemon.url)
    assert (found.stdout, found.stderr) == ("users is at http://10.0.0.5:8000\n", "")
    daemon.wait_for_line("deregistered service=jobs ")
    found = run(f"python {tmp_path}/discovery.py", REGISTRY_URL=daemon.url)
    assert found.stderr == ""
    assert found.stdout.splitlines()[2:] == [
        "the one with the least to do is http://10.0.0.5:8000",
        "1 are up, as was so 0 s ago",
    ]


def session(shown: list[Step], folder: Path, *prefix: str, **environ: str) -> list[Step]:
    """What comes out where the commands are given to one shell, in a folder."""
    mark = "-- end of a step --"
    script = "".join(f"{step.command}\necho '{mark}'\n" for step in shown)
    ran = subprocess.run(
        [*prefix, "bash", "-c", script], capture_output=True, text=True, check=True, timeout=60, cwd=folder,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environ},
    )  # fmt: skip
    outputs = ran.stdout.split(f"{mark}\n")[:-1]
    return [Step(step.command, output) for step, output in zip(shown, outputs, strict=True)]


def alike(steps: list[Step]) -> list[Step]:
    return [Step(step.command, without_chance(step.output)) for step in steps]


def test_the_command_line_does_as_it_is_shown(daemon: RunningDaemon, tmp_path: Path) -> None:
    shown = steps(block("The command line", "console"))

    assert alike(session(shown, tmp_path, REGISTRY_URL=daemon.url)) == alike(shown)


@pytest.fixture
def daemon_in_a_network(start_daemon: StartDaemon) -> RunningDaemon:
    """On its usual port, in a network of its own, where nobody has any of the ports that the README names."""
    in_a_network = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    return start_daemon("--port", "8006", argv=[*in_a_network, sys.executable, "-m", "registryd"])


NEEDED = [tool for tool in ("unshare", "nsenter", "ip", "busybox", "curl") if shutil.which(tool) is None]


@pytest.mark.skipif(
    os.geteuid() != 0 or bool(NEEDED),
    reason=f"its ports are the README's, so it needs a network of its own: root, {' '.join(NEEDED)} (.ci/run has all)",
)
def test_two_services_and_a_web_server_find_each_other(daemon_in_a_network: RunningDaemon, tmp_path: Path) -> None:
    for number, name in enumerate(["users.py", "timelines.py"]):
        (tmp_path / name).write_text(block("The command line", "python", number))
    shown = steps(block("The command line", "console", 1))
    prefix = "nsenter", "--net", f"--target={daemon_in_a_network.popen.pid}"

    assert block("The command line", "sh").strip() in shown[1].command
    assert alike(session(shown, tmp_path, *prefix, REGISTRY_URL="")) == alike(shown)


@pytest.mark.skipif(shutil.which("git") is None, reason="git tells what a clone has, and is not installed")
def test_the_first_command_starts_the_daemon(tmp_path: Path) -> None:
    command = f"cd {checkout(tmp_path)} && {block('Start', 'sh', 0)}"
    with Process(["bash", "-c", command], {"REGISTRYD_PORT": "0"}) as process:
        line = process.wait_for_line(r"listening on (\S+) .* pid=(\d+)", 180)  # pip takes its time
        assert fetch(line[1] + "/livez").body == b"ok\n"
        assert fetch(line[1] + "/static/main.js").status == 200, "the page is installed, too"
        os.kill(int(line[2]), signal.SIGINT)
        assert process.wait() == 0


def test_ci_runs_the_tests_as_the_readme_says() -> None:
    assert block("Start", "sh", 1).strip() in (ROOT / ".ci/run").read_text().splitlines()
