"""The real Prometheus of Debian: what it makes of our metrics, our alerts, our dashboard, and the list of targets."""

import json
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from process import DEADLINE, Process, RunningDaemon, StartDaemon, fetch
from prometheus_client.parser import text_string_to_metric_families
from readme import ROOT, block

from registryd.api.families import METRICS
from registryd.auth import new_token

RULES, DASHBOARD = ROOT / "systemd/registryd.rules.yml", ROOT / "systemd/grafana.json"
#: What stands in place of a variable of the dashboard.
VARIABLES = {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*"}

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        shutil.which("prometheus") is None or shutil.which("promtool") is None,
        reason="only Debian has the real Prometheus: apt-get install --no-install-recommends prometheus (.ci/run does)",
    ),
]


def promtool(*args: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *args], input=text, capture_output=True, text=True, check=False, timeout=30)


def expressions() -> list[str]:
    """What the dashboard asks."""
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    for name, value in VARIABLES.items():
        asked = [expression.replace(name, value) for expression in asked]
    return asked


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The metrics of a registry that keeps its state, and has something to tell of."""
    folder = tmp_path_factory.mktemp("scrape")
    with RunningDaemon(folder, "--state-dir", str(folder)) as daemon:
        daemon.register(instance_id="u1")
        for path in ("/services/users", "/nothing", "/metrics"):
            daemon.fetch(path)
        return daemon.fetch("/metrics").body.decode()


def test_promtool_finds_nothing_wrong_with_the_metrics(scrape: str) -> None:
    checked = promtool("check", "metrics", text=scrape)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_scrape_has_what_is_declared_and_the_readme_tells_of(scrape: str) -> None:
    """And so all that the alerts and the dashboard ask for."""
    families = {family.name: family for family in text_string_to_metric_families(scrape)}
    declared = {metric.name.removesuffix("_total"): metric for metric in METRICS}

    assert families.keys() == declared.keys()
    samples: set[str] = set()
    for name, metric in declared.items():
        family = families[name]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert {label for sample in family.samples for label in sample.labels} - {"le"} == set(metric.labels), name
        samples |= {sample.name for sample in family.samples}
    for text in (RULES.read_text(), *expressions()):
        asked = set(re.findall(r"\b(?:registryd|process)_\w+", text))
        assert asked - {"registryd_rules_yml"} <= samples


def test_every_metric_of_our_own_is_on_the_dashboard() -> None:
    asked = " ".join(expressions())

    missing = {metric.name for metric in METRICS if metric.name not in asked}
    assert missing <= {
        "registryd_index", "registryd_access_tokens", "registryd_stalls_total", "process_virtual_memory_bytes",
    }  # fmt: skip


def test_promtool_finds_nothing_wrong_with_the_alerts_and_each_fires_when_it_is_to() -> None:
    checked = promtool("check", "rules", str(RULES))
    assert checked.returncode == 0, checked.stdout + checked.stderr

    tested = promtool("test", "rules", str(Path(__file__).parent / "rules.test.yml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr
    names = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    assert names == set(re.findall(r"alertname[:=] ?\"?(\w+)", (Path(__file__).parent / "rules.test.yml").read_text()))


def test_promtool_understands_what_the_dashboard_asks(tmp_path: Path) -> None:
    asked = expressions()
    rules = [{"record": f"panel:{n}", "expr": expression} for n, expression in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = promtool("check", "rules", str(tmp_path / "rules.yml"))

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert len(asked) > 30
    assert not [expression for expression in asked if "$" in expression]


def test_promtool_finds_nothing_wrong_with_the_sample_in_the_readme(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    (tmp_path / "prometheus.yml").write_text(block("Prometheus", "yaml"))
    checked = promtool("check", "config", str(tmp_path / "prometheus.yml"))

    assert checked.returncode == 0, checked.stdout + checked.stderr


class Scraped:
    """Instances with metrics; whoever waits for something is told of each scrape."""

    def __init__(self) -> None:
        self.more = threading.Condition()
        #: The paths at which each was asked, by its address.
        self.asked: dict[str, set[str]] = {}
        self._servers: list[ThreadingHTTPServer] = []

    def start(self) -> str:
        """One more; gives back its address."""
        scraped = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = b"# TYPE answers gauge\nanswers 42\n"
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                with scraped.more:
                    scraped.asked.setdefault(address, set()).add(self.path)
                    scraped.more.notify_all()

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        address = f"127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self._servers.append(server)
        return address

    def wait_for(self, is_so: Callable[[], bool], what: str) -> None:
        """Waits until something is so, which is looked at after each scrape."""
        with self.more:
            assert self.more.wait_for(is_so, DEADLINE), what

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class Prometheus(Process):
    """A real Prometheus with this configuration, on a free port."""

    def __init__(self, folder: Path, config: str) -> None:
        (folder / "prometheus.yml").write_text(config)
        super().__init__(
            [
                "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                "--web.listen-address=127.0.0.1:0", "--scrape.discovery-reload-interval=100ms",
            ]
        )  # fmt: skip
        found = self.wait_for_line(r'msg="Listening on" address=(127\.0\.0\.1:[1-9]\d*)')
        self.url = f"http://{found[1]}"

    def targets(self, pool: str = "services") -> dict[str, Any]:
        """The targets of a job that are up, by their address: their labels."""
        active = fetch(f"{self.url}/api/v1/targets?state=active").json["data"]["activeTargets"]
        return {
            urlsplit(target["scrapeUrl"]).netloc: target["labels"]
            for target in active
            if target["scrapePool"] == pool and target["health"] == "up"
        }

    def query(self, expression: str) -> list[Any]:
        answer = fetch(f"{self.url}/api/v1/query?query={quote(expression)}").json
        assert answer["status"] == "success", answer
        found: list[Any] = answer["data"]["result"]
        return found


@pytest.fixture
def scraped() -> Iterator[Scraped]:
    scraped = Scraped()
    yield scraped
    scraped.stop()


def test_prometheus_scrapes_instances_as_they_come_and_go(
    start_daemon: StartDaemon, tmp_path: Path, scraped: Scraped
) -> None:
    """By the sample in the README, with a token, and only faster."""
    token = new_token(str(tmp_path / "auth.toml"), "prometheus", ["read"], ["*"])
    (tmp_path / "auth.toml").write_text(
        (tmp_path / "auth.toml").read_text() + '\n[anyone]\nallow = ["register", "operate"]\n'
    )
    daemon = start_daemon("--auth-file", str(tmp_path / "auth.toml"), "--state-dir", str(tmp_path))
    token_file = tmp_path / "token"
    token_file.write_text(token)
    shutil.copy(RULES, tmp_path)
    config = block("Prometheus", "yaml").replace("localhost:8006", urlsplit(daemon.url).netloc)
    authorization = f"authorization: {{type: Bearer, credentials_file: {token_file}}}"
    config = config.replace("  - job_name: registryd\n", f"  - job_name: registryd\n    {authorization}\n")
    config = config.replace("refresh_interval: 10s", f"refresh_interval: 1s\n        {authorization}")
    config = "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 1s}\n" + config

    def register(name: str, address: str, service_name: str = "users", **more: object) -> None:
        daemon.register(service_name, instance_id=name, base_url=f"http://{address}", **more)

    addresses = {name: scraped.start() for name in ("stays", "goes", "expires", "drains", "comes")}
    with Prometheus(tmp_path, config) as prometheus:

        def there() -> dict[str, Any]:
            targets = prometheus.targets()
            return {name: targets[address] for name, address in addresses.items() if address in targets}

        register("stays", addresses["stays"], "timelines", zone="eu-1", metadata={"prometheus.io/path": "/inside"})
        for name in ("goes", "drains"):
            register(name, addresses[name])
        register("expires", addresses["expires"], ttl=3600)
        register("no-metrics", "127.0.0.1:1", metadata={"prometheus.io/scrape": "false"})
        first = {"stays", "goes", "expires", "drains"}
        scraped.wait_for(lambda: set(there()) == first, "all that is registered is scraped")
        assert there()["stays"] == {
            "instance": addresses["stays"], "instance_id": "stays", "job": "timelines", "zone": "eu-1",
        }  # fmt: skip
        assert scraped.asked[addresses["stays"]] == {"/inside"}
        assert scraped.asked[addresses["goes"]] == {"/metrics"}

        register("comes", addresses["comes"])
        daemon.fetch("/deregister/goes", "DELETE")
        daemon.fetch("/maintenance/drains", "POST")
        register("expires", addresses["expires"], ttl=1)
        scraped.wait_for(lambda: set(there()) == {"stays", "comes"}, "who comes is scraped, and who goes is not")

        mine = 'registryd_instances{job="registryd", status="up"} > 1'
        scraped.wait_for(lambda: bool(prometheus.query(mine)), "the registry is scraped, too")
        for expression in expressions():
            prometheus.query(expression)
        groups = fetch(f"{prometheus.url}/api/v1/rules").json["data"]["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}

        daemon.signal(signal.SIGKILL)
        daemon.wait()
        failures = re.compile(r'^prometheus_sd_refresh_failures_total\{.*mechanism="http".*\} [1-9]', re.MULTILINE)
        scraped.wait_for(
            lambda: failures.search(fetch(f"{prometheus.url}/metrics").body.decode()) is not None,
            "the list cannot be had any more",
        )
        scraped.wait_for(lambda: set(there()) == {"stays", "comes"}, "what is known is kept")
