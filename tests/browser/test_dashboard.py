"""The dashboard in a real browser: what it shows is what is so, or it says that it is not known."""

import contextlib
import http.client
import json
import signal
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from page import CONTRAST, Page
from process import RunningDaemon, StartDaemon
from selenium.webdriver.common.keys import Keys

from registryd.auth import new_token
from registryd.core.access import Right

pytestmark = [pytest.mark.e2e, pytest.mark.browser]


def post(daemon: RunningDaemon, path: str, body: object = b"") -> None:
    reply = daemon.fetch(path, "POST", body)
    assert reply.status == 200, reply.body


def test_what_changes_is_on_the_page_at_once(page: Page, daemon: RunningDaemon) -> None:
    page.open(daemon.url)
    page.until_text("#empty", "No service is registered.")
    daemon.register(instance_id="u1", zone="eu-1", version="1.4.2")
    page.until_rows("s:users", "i:u1")
    page.until_row("i:u1", "up", "http://10.0.0.5:8000", "eu-1", "1.4.2")
    daemon.register(instance_id="u2", status="starting")
    page.until_row("s:users", "1 of 2 up", "1 starting")
    post(daemon, "/heartbeat/u2", {"status": "down"})
    page.until_row("i:u2", "down")
    post(daemon, "/drain/u1", {"reason": "deploy 42"})
    page.until_row("i:u1", "draining")
    page.until_row("s:users", "0 of 2 up", "1 down, 1 draining")
    post(daemon, "/resume/u1")
    page.until_row("i:u1", "up")
    daemon.register("media", instance_id="m1", ttl=1)
    page.until_rows("s:media", "i:m1", "s:users", "i:u1", "i:u2")
    page.until_rows("s:users", "i:u1", "i:u2")
    daemon.fetch("/deregister/u2", "DELETE")
    page.until_rows("s:users", "i:u1")

    assert page.text("#summary") == "1 service, 1 instance, 1 up"
    assert page.run("return document.title") == "1 up – registryd"
    changes = page.text("#changes ol")
    for said in (
        "m1 of media expired",
        "u2 of users deregistered",
        "u1 of users up, now draining",
        "u2 of users registered",
    ):
        assert said in changes
    page.until(lambda: page.text("#news"), "told to those who listen")


def test_a_lease_runs_down_and_a_heartbeat_fills_it_again(page: Page, daemon: RunningDaemon) -> None:
    def share() -> float:
        style: str = page.run("return document.querySelector('#rows .fill').style.transform")
        return float(style.removeprefix("scaleX(").removesuffix(")") or "nan")

    def has_risen() -> bool:
        shares.append(share())
        return shares[-1] > shares[-2]

    daemon.register(instance_id="u1", ttl=6)
    page.open(daemon.url)
    page.until_row("i:u1", " s ")
    page.until(lambda: share() < 0.9, "less")
    shares = [share()]
    post(daemon, "/heartbeat/u1")
    page.until(has_risen, "more")
    assert shares[:-1] == sorted(shares[:-1], reverse=True), "until then it has run down"
    page.click("[data-key='i:u1']")
    page.until_text("#panel", "Lease", "last heartbeat")


def test_one_filters_as_one_types(page: Page, daemon: RunningDaemon) -> None:
    daemon.register(instance_id="u1", zone="eu-1", tags=["blue"], metadata={"team": "Core"})
    daemon.register(instance_id="u2", zone="eu-2", status="down")
    daemon.register("media", instance_id="m1", base_url="http://10.9.9.9:80")
    page.open(daemon.url)
    page.until_rows("s:media", "i:m1", "s:users", "i:u1", "i:u2")
    for text, found in {
        "10.9": ["s:media", "i:m1"],
        "CORE": ["s:users", "i:u1"],
        "zone:eu -status:up": ["s:users", "i:u2"],
        "tag:blue": ["s:users", "i:u1"],
        "meta:team=c": ["s:users", "i:u1"],
        "id:m users": [],
    }.items():
        page.fill("#filter", text)
        page.until_rows(*found)
    page.until_text("#empty", "Nothing that is registered fits.")
    page.fill("#filter", "users")
    page.until_text("#found", "2 instances of 1 service")
    page.click("#only")
    page.until_rows("s:users", "i:u2")
    page.driver.refresh()
    page.until_rows("s:users", "i:u2")
    assert page.run("return document.getElementById('filter').value") == "users", "a reload forgets nothing"


def test_of_one_that_is_gone_the_registry_is_asked(page: Page, daemon: RunningDaemon) -> None:
    daemon.register(instance_id="u1")
    daemon.fetch("/deregister/u1", "DELETE")
    page.open(daemon.url)
    page.until_text("#empty", "No service")
    page.fill("#filter", "u1")
    page.click("#empty button", "Ask the registry about u1")
    page.until_text("#panel", "gone", "it was deregistered at", "registered new")
    page.fill("#filter", "u9")
    page.click("#empty button", "Ask the registry about u9")
    page.until_text("#why", "never seen: no such instance and no such service")


def test_sorting_brings_the_worst_to_the_top(page: Page, daemon: RunningDaemon) -> None:
    daemon.register("a", instance_id="a1")
    daemon.register("b", instance_id="b1", status="down")
    daemon.register("b", instance_id="b2")
    page.open(daemon.url)
    page.until_rows("s:a", "i:a1", "s:b", "i:b1", "i:b2")
    page.click("[data-sort=up] button")
    page.until_rows("s:b", "i:b1", "i:b2", "s:a", "i:a1")
    assert page.run("return document.querySelector('[data-sort=up]').ariaSort") == "ascending"
    page.click("#expand", "Close all")
    page.until_rows("s:b", "s:a")


def test_all_of_it_can_be_done_by_keyboard(page: Page, daemon: RunningDaemon) -> None:
    for name in ("u1", "u2", "u3"):
        daemon.register(instance_id=name)
    page.open(daemon.url)
    page.until_rows("s:users", "i:u1", "i:u2", "i:u3")
    page.type("/", "u", Keys.ESCAPE)
    assert page.focus == "filter"
    page.type(Keys.BACKSPACE)
    for _ in range(20):
        page.type(Keys.TAB)
        if page.focus == "s:users":
            break
    page.type(Keys.ARROW_LEFT)
    page.until_rows("s:users")
    page.type(Keys.ARROW_RIGHT)
    page.until_rows("s:users", "i:u1", "i:u2", "i:u3")
    page.type(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert page.focus == "i:u3"
    page.type(Keys.HOME, Keys.END, Keys.ARROW_UP)
    assert page.focus == "i:u2"

    daemon.register("a", instance_id="a1")  # above it
    page.until_rows("s:a", "i:a1", "s:users", "i:u1", "i:u2", "i:u3")
    assert page.focus == "i:u2", "the focus stays where it is while others come"
    page.type(Keys.ENTER)
    page.until_text("#side-title", "u2")
    assert page.focus == "side-title"
    page.type(Keys.TAB, Keys.TAB, Keys.ENTER)  # past Close
    assert page.focus == "reason"
    page.type("deploy 42", Keys.ENTER)
    page.until_text("#panel .told", "u2 is drained.")
    page.until_row("i:u2", "draining")
    page.type(Keys.ESCAPE)
    page.until(lambda: page.focus == "i:u2")

    daemon.fetch("/deregister/u2", "DELETE")
    page.until_rows("s:a", "i:a1", "s:users", "i:u1", "i:u3")
    assert page.focus == "i:u3", "it goes to the next when its own has gone"


def test_an_operator_drains_and_resumes_with_a_reason(page: Page, daemon: RunningDaemon) -> None:
    daemon.register(instance_id="u1")
    page.open(daemon.url)
    page.click("[data-key='i:u1']")
    page.until_text("#panel", "it is up, and its last heartbeat came at", "registered new")
    page.click("#panel button", "Maintenance…")
    page.fill("#reason", "disk swap")
    page.run("document.getElementById('end').value = '3600'")
    page.click("#panel button", "Take it out")
    page.until_text("#panel .told", "u1 is put into maintenance.")
    page.until_text("#panel .override", "maintenance since", "until", "disk swap")
    page.until_text("#panel .events", "maintenance: disk swap", "127.0.0.1, Mozilla")
    override = daemon.fetch("/instances/u1").json["override"]
    assert (override["status"], override["reason"]) == ("maintenance", "disk swap")
    page.click("#panel button", "Resume")
    page.until_text("#panel .told", "u1 is resumed.")
    page.until_text("#panel .state", "up")
    assert "override" not in daemon.fetch("/instances/u1").json

    page.run(
        "const real = fetch; fetch = (path, options) => options.method === 'POST' ? Promise.resolve(new Response("
        '\'{"detail": "the token may not"}\', { status: 403 })) : real(path, options)'
    )
    page.click("#panel button", "Drain…")
    page.click("#panel button", "Drain it")
    page.until_text("#panel .told", "Not allowed: the token may not")


NASTY = "<script>pwned=1</script><img src=x onerror=pwned=1>\"'`&lt;${pwned=1}{{pwned=1}}\u202e"


def test_whatever_services_say_of_themselves_is_text(page: Page, daemon: RunningDaemon) -> None:
    for number, url in enumerate(["javascript://h/%0apwned=1", "data://text/html,<b>", "http://10.0.0.5:8000/?<b>"]):
        daemon.register(
            "evil", instance_id=f"<b>'&{number}", base_url=url, zone=NASTY[:64], version=NASTY[:64], tags=[NASTY],
            metadata={NASTY: NASTY, "__proto__": "x"},
        )  # fmt: skip
    post(daemon, "/drain/<b>'&0", {"reason": NASTY})
    page.open(daemon.url)
    page.until_row("i:<b>'&0", "draining", NASTY[:40])
    for number, link in [(0, None), (1, None), (2, "http://10.0.0.5:8000/?%3Cb%3E")]:
        page.run('document.querySelector(`[data-key="i:<b>\'&${arguments[0]}"]`).click()', number)
        page.until_text("#panel .facts", NASTY, "__proto__")
        page.until_text("#panel .events", "registered")
        links = page.run(
            "return [...document.querySelectorAll('#panel a')].map((one) => [one.href, one.rel, one.target])"
        )
        assert links == ([[link, "noopener noreferrer", "_blank"]] if link else [])
    page.run('document.querySelector(`[data-key="i:<b>\'&0"]`).click()')
    page.until_text("#panel .override", NASTY)

    assert page.run("return window.pwned") is None
    assert page.run("return document.querySelectorAll('body script, body img, body b').length") == 0


def test_the_browser_itself_would_not_let_it_be_anything_else(page: Page, daemon: RunningDaemon) -> None:
    page.expects_violations = True
    page.open(daemon.url)
    page.until_text("#empty", "No service")
    tried = page.run(
        "try { document.getElementById('news').innerHTML = '<b>x</b>'; } catch (error) { return error.name; }"
    )
    page.run(
        "const script = document.createElement('script'); try { script.textContent = 'pwned = 1'; } catch {}"
        "document.body.append(script); new Image().src = 'http://127.0.0.1:9/x.png';"
        "fetch('http://127.0.0.1:9/').catch(() => 0)"
    )

    assert tried == "TypeError"
    page.until(lambda: {"require-trusted-types-for", "img-src", "connect-src"} <= set(page.run("return violations")))
    assert page.run("return window.pwned") is None


@contextlib.contextmanager
def kept_port() -> Any:
    """A port that nobody else gets, nor anyone an answer from, unless a registryd listens on it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield str(sock.getsockname()[1])


def test_a_lost_registry_is_said_and_found_again(page: Page, start_daemon: StartDaemon) -> None:
    page.expects_failures = True
    with kept_port() as port:
        daemon = start_daemon("--port", port)
        daemon.register(instance_id="u1", ttl=600)
        daemon.register(instance_id="u2", ttl=600)
        page.open(daemon.url)
        page.until_row("i:u1", " min")
        assert page.text("#link").startswith("Live, last heard ")
        daemon.popen.kill()
        page.until_text(
            "#banner", "The registry is lost:", "What is shown is as of ", " ago, and may not be so any more."
        )
        assert page.text("#link").startswith("Lost, last heard ")
        assert page.run("return document.title").startswith("✕ ")
        page.until_row("i:u1", "was 9 min")
        page.until_text("#banner", "Trying again in ")
        page.click("[data-key='i:u1']")
        page.click("#panel button", "Drain…")
        page.click("#panel button", "Drain it")
        page.until_text("#panel .told", "Not done: the connection failed; whether it was done is not known")

        again = start_daemon("--port", port)
        again.register(instance_id="u2", ttl=600)
        page.run("document.querySelector('#banner button').click()")  # Try now; it may have come back by itself
        page.until_rows("s:users", "i:u2")
        page.until(lambda: not page.text("#banner"), "without a banner")
        assert page.text("#link").startswith("Live, ")


def test_a_registry_that_does_not_know_yet_is_said_to_be_so(
    page: Page, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    page.expects_failures = True
    (tmp_path / "state").mkdir()
    (tmp_path / "state/registryd.db").write_bytes(b"x" * 5000)
    daemon = start_daemon("--state-dir", str(tmp_path / "state"), "--heartbeat-timeout", "60")
    page.open(daemon.url)
    page.until_text("#banner", "The registry refuses: ", "lost its state", "Trying again in")
    page.until_text("#starting", "There is nothing to show yet")


def test_a_stream_on_which_nothing_comes_is_given_up_and_taken_up_where_it_was(
    page: Page, daemon: RunningDaemon
) -> None:
    daemon.register(instance_id="u1")
    page.open(daemon.url)
    page.until_rows("s:users", "i:u1")
    seen = page.run_module(
        """
        const { Link } = await load("link.js");
        const states = [], kinds = [];
        const link = new Link({
          take: (events) => kinds.push(...events.map((event) => event.type)),
          know: () => 0,
          tell: () => states.push(link.state),
        }, { silence: 200, first: 10, longest: 10, others: 10 });
        link.run();
        while (states.length < 4) await new Promise((resolve) => setTimeout(resolve, 10));
        link.pause();
        return { states, kinds };
        """
    )

    assert seen["states"][:4] == ["live", "lost", "live", "lost"]
    assert seen["kinds"] == ["snapshot"], "the second time it goes on from there"


def test_a_page_that_is_left_lets_its_connection_go(page: Page, daemon: RunningDaemon) -> None:
    def watchers() -> int:
        found: int = daemon.fetch("/status").json["watchers"]
        return found

    daemon.register(instance_id="u1")
    page.open(daemon.url)
    page.until_rows("s:users", "i:u1")
    page.until(lambda: watchers() == 1, "one watcher")
    page.run("dispatchEvent(new PageTransitionEvent('pagehide'))")
    page.until(lambda: watchers() == 0, "no watcher")
    daemon.fetch("/deregister/u1", "DELETE")
    page.run("dispatchEvent(new PageTransitionEvent('pageshow'))")
    page.until_text("#changes ol", "u1 of users deregistered")


def add_token(path: Path, name: str, *allow: Right, services: str = "*") -> str:
    return new_token(str(path), name, allow, [services])


def register_with(token: str, daemon: RunningDaemon, service_name: str, instance_id: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(daemon.url).netloc, timeout=20)
    with contextlib.closing(connection):
        body = {"service_name": service_name, "base_url": "http://h", "instance_id": instance_id, "ttl": 600}
        connection.request("POST", "/register", json.dumps(body), {"Authorization": f"Bearer {token}"})
        assert connection.getresponse().status == 200


def test_a_token_is_asked_for_and_shows_what_it_allows(page: Page, start_daemon: StartDaemon, tmp_path: Path) -> None:
    page.expects_failures = True
    path = tmp_path / "auth.toml"
    admin, reader = add_token(path, "boss", "admin"), add_token(path, "look", "read")
    team = add_token(path, "team", "operate", services="user*")
    blind = add_token(path, "svc", "register")
    daemon = start_daemon("--auth-file", str(path))
    register_with(admin, daemon, "users", "u1")
    register_with(admin, daemon, "media", "m1")

    page.open(daemon.url)
    page.until_text("#token", "The registry wants a token", "this registry needs a token")
    assert page.focus == "token-value"
    page.type("rgd_wrong", Keys.ENTER)
    page.until_text("#token", "this token is not known here")
    page.type(blind, Keys.ENTER)
    page.until_text("#token", "This token may not see what is registered", "right `read`")

    page.fill("#token-value", reader)
    page.type(Keys.ENTER)
    page.until_rows("s:media", "i:m1", "s:users", "i:u1")
    page.until_text("#caller", "Token look")
    page.click("[data-key='i:u1']")
    page.until_text("#panel", "Your rights do not allow to drain or resume it.")
    assert (
        page.run("return [...document.querySelectorAll('#panel button')].filter((b) => b.checkVisibility()).length")
        == 0
    )
    page.driver.refresh()
    page.until_text("#token", "The registry wants a token")

    page.click("#token-keep")
    page.fill("#token-value", team)
    page.type(Keys.ENTER)
    page.until_rows("s:users", "i:u1")
    page.until_text("#trouble", "Shown is what your token may read: user*.")
    page.driver.refresh()
    page.until_rows("s:users", "i:u1")
    register_with(admin, daemon, "users-beta", "b1")
    page.until_rows("s:users", "i:u1", "s:users-beta", "i:b1")
    page.click("[data-key='i:u1']")
    page.click("#panel button", "Drain…")
    page.fill("#reason", "deploy")
    page.type(Keys.ENTER)
    page.until_text("#panel .told", "u1 is drained.")
    page.until_text("#panel .events", "token team")

    path.write_text(path.read_text().replace('"operate"', '"read"'))
    daemon.signal(signal.SIGHUP)
    page.until_text("#panel", "Your rights do not allow to drain or resume it.")
    page.click("#caller button", "Forget it")
    page.until_text("#token", "The registry wants a token")
    assert "u1" not in page.text()
    assert page.run("return sessionStorage.length") == 0


def test_where_scripts_fail_or_are_off_it_says_so(page: Page, daemon: RunningDaemon) -> None:
    page.expects_failures = True
    page.cdp("Network.enable")
    page.cdp("Network.setBlockedURLs", urls=["*/static/model.js"])
    page.open(daemon.url)
    page.until_text("#failure", "This page has failed", "/static/main.js", "Load it again")
    page.cdp("Network.setBlockedURLs", urls=[])
    page.cdp("Emulation.setScriptExecutionDisabled", value=True)
    page.open(daemon.url)
    page.until(lambda: "This page needs JavaScript" in page.driver.find_element("css selector", "noscript").text)
    page.cdp("Emulation.setScriptExecutionDisabled", value=False)


def emulate(page: Page, width: int, *, dark: bool = False) -> None:
    page.cdp("Emulation.setDeviceMetricsOverride", width=width, height=740, deviceScaleFactor=1, mobile=width < 700)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    page.cdp("Emulation.setEmulatedMedia", features=scheme)


@pytest.mark.parametrize("width", [320, 360, 768])
def test_on_a_phone_nothing_is_too_wide(page: Page, daemon: RunningDaemon, width: int) -> None:
    def excess() -> int:
        found: int = page.run("return document.documentElement.scrollWidth - innerWidth")
        return found

    daemon.register(
        "a-service-with-" + "a" * 100, instance_id="an-id-with-" + "b" * 100, base_url="http://" + "c" * 500
    )
    post(daemon, "/drain/an-id-with-" + "b" * 100, {"reason": "d" * 200})
    emulate(page, width)
    page.open(daemon.url)
    page.until(lambda: len(page.rows()) == 2)
    assert excess() == 0
    page.click("[role=row].instance")
    page.until_text("#panel .events", "draining: dddd")
    page.click("#panel button", "Drain…")
    assert excess() == 0
    page.click("#side-close")
    page.click("#news-open")
    page.until_text("#changes", "What has changed")
    assert excess() == 0


def test_nothing_is_hard_to_use_for_some(page: Page, start_daemon: StartDaemon, tmp_path: Path) -> None:
    page.expects_failures = True
    with kept_port() as port:
        daemon = start_daemon("--port", port)
        for number, status in enumerate(["up", "down", "starting", "up", "up"]):
            daemon.register(instance_id=f"u{number}", status=status, ttl=600, tags=["blue"], metadata={"k": "v"})
        post(daemon, "/drain/u3", {"reason": "deploy 42"})
        post(daemon, "/maintenance/u4")
        page.open(daemon.url)
        page.until_row("i:u4", "maintenance", " min")
        emulate(page, 360)
        assert page.faults() == []
        emulate(page, 1280)
        page.click("[data-key='i:u3']")
        page.until_text("#panel .events", "deploy 42")
        page.click("#panel button", "Maintenance…")
        assert page.faults() == []
        emulate(page, 1280, dark=True)
        assert page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
        assert page.faults(CONTRAST) == []
        daemon.popen.kill()
        page.until_text("#banner", "The registry is lost")
        page.until_row("i:u4", "was ")
        assert page.faults(CONTRAST) == []
        emulate(page, 1280)
        assert page.faults(CONTRAST) == []
        add_token(tmp_path / "auth.toml", "boss", "admin")
        start_daemon("--port", port, "--auth-file", str(tmp_path / "auth.toml"))
        page.driver.refresh()
        page.until_text("#token", "The registry wants a token")
        assert page.faults() == []


def test_ten_thousand_instances_are_as_easy_as_ten(page: Page, start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--heartbeat-timeout", "3600")
    register_many(daemon, 10_000)
    page.open(daemon.url)
    page.until_text("#summary", "10 services, 10,000 instances, 10,000 up")
    page.until_rows(*(f"s:service-{number}" for number in range(10)))
    page.click("#expand", "Open all")
    page.until_row("i:0-1", "up", " min")
    assert page.run("return document.getElementById('grid').getAttribute('aria-rowcount')") == "10011"
    assert len(page.rows()) < 100, "only what can be seen is there"
    page.click("[data-key='i:0-1']")
    page.type(Keys.ESCAPE)
    page.until(lambda: page.focus == "i:0-1")
    page.type(Keys.END)
    page.until_row("i:9-1000", "up", " min")
    assert page.focus == "i:9-1000"
    post(daemon, "/heartbeat/9-1000", {"status": "down"})
    page.until_row("i:9-1000", "down")
    page.fill("#filter", "status:down")
    page.until_rows("s:service-9", "i:9-1000")


def register_many(daemon: RunningDaemon, count: int) -> None:
    """As many instances of ten services, asked for without waiting for each answer."""
    head = b"POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
    with daemon.connect() as connection, connection.makefile("rb") as answers:
        for first in range(0, count, 500):
            bodies = [
                b'{"service_name":"service-%d","base_url":"http://10.0.0.5:8000","instance_id":"%d-%d"}'
                % (number % 10, number % 10, number // 10 + 1)
                for number in range(first, min(first + 500, count))
            ]
            connection.sendall(b"".join(head % (len(body), body) for body in bodies))
            for _ in bodies:
                assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
                lines = iter(answers.readline, b"\r\n")
                headers = dict(line.lower().split(b": ", 1) for line in lines)
                answers.read(int(headers[b"content-length"]))
