"""The dashboard in a browser, as tests see it: what is on it, what is typed, and what the browser complains of."""

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any, TypeVar

from process import DEADLINE
from selenium.common.exceptions import TimeoutException
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService
from selenium.webdriver.support.wait import WebDriverWait

T = TypeVar("T")

#: As root and in a container Chromium cannot have a sandbox of its own, nor a large /dev/shm.
OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--window-size=1280,900",
]
#: Notes what the Content-Security-Policy has kept from happening, before anything of the page runs.
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""
#: What axe holds a page to: WCAG 2.1, levels A and AA, and what is held to be good practice.
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
#: What depends on the colours alone.
CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
AXE = files("axe_core_python").joinpath("axe.min.js")
#: Runs a part of the page's code, or of a test's, in which `load(name)` imports a file of the page.
MODULE = """
const done = arguments[arguments.length - 1];
const load = (name) => import(`/static/${name}`);
const tell = async (...given) => { %s };
tell(...arguments).then((value) => done({ value }), (error) => done({ error: String(error) }));
"""


def start_chromium(chromium: str, chromedriver: str) -> Chrome:
    """A headless Chromium with its own driver: nothing is downloaded."""
    options = ChromeOptions()
    options.binary_location = chromium
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(chromedriver))
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    return driver


class Page:
    """One tab."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        #: Whether the browser may tell of requests that have failed or were refused.
        self.expects_failures = False
        #: Whether what the policy forbids is tried.
        self.expects_violations = False

    def open(self, url: str) -> None:
        """Opens a page anew."""
        self.driver.get("about:blank")
        self.driver.get(url)

    def close(self) -> None:
        """Leaves the page. Fails where the browser has complained."""
        violations = self.run("return window.violations ?? []")
        complaints: list[dict[str, Any]] = self.driver.execute("getLog", {"type": "browser"})["value"]
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        self.run("sessionStorage.clear()")
        self.driver.get("about:blank")
        if self.expects_failures:
            complaints = [complaint for complaint in complaints if complaint["source"] != "network"]
        if not self.expects_violations:
            assert not complaints, complaints
            assert not violations, violations

    def cdp(self, command: str, **arguments: object) -> Any:
        """Tells the browser something by its DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, arguments)

    def run(self, script: str, *arguments: object) -> Any:
        """Runs JavaScript; it may `return` something."""
        return self.driver.execute_script(script, *arguments)

    def run_module(self, script: str, *arguments: object) -> Any:
        """Runs JavaScript in which `load(name)` imports a file of the page, and waits for it."""
        answer = self.driver.execute_async_script(MODULE % script, *arguments)
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    def until(self, is_so: Callable[[], T | bool], what: str = "") -> T:
        """Waits until something is true, and gives it back."""
        try:
            found: Any = WebDriverWait(self.driver, DEADLINE, poll_frequency=0.02).until(lambda _: is_so())
        except TimeoutException:
            raise AssertionError(f"it did not come to be {what}; the page: {self.text()}") from None
        there: T = found
        return there

    def text(self, css: str = "body") -> str:
        """The text of an element, as far as it is shown; empty where there is none."""
        found: str = self.run(
            "const one = document.querySelector(arguments[0]); return one?.checkVisibility() ? one.innerText : ''", css
        )
        return found

    def until_text(self, css: str, *parts: str) -> str:
        """Waits until an element shows all of this."""
        return self.until(lambda: all(part in (text := self.text(css)) for part in parts) and text, f"{css} {parts}")

    def rows(self) -> dict[str, str]:
        """The rows of the list by key (`s:SERVICE`, `i:INSTANCE`), in their order, each with what it says."""
        found: list[tuple[str, str]] = self.run(
            "return [...document.querySelectorAll('#rows > [role=row]')]"
            ".map((row) => [row.dataset.key, row.innerText.replace(/\\s+/g, ' ')])"
        )
        return dict(found)

    def until_rows(self, *keys: str) -> None:
        """Waits until the list has exactly these rows."""
        self.until(lambda: tuple(self.rows()) == keys, f"the rows {keys}")

    def until_row(self, key: str, *parts: str) -> str:
        """Waits until a row says all of this."""
        return self.until(
            lambda: all(part in (row := self.rows().get(key, "")) for part in parts) and row, f"{key} {parts}"
        )

    def click(self, css: str, text: str = "") -> None:
        """Clicks on the first element of this kind (with this text) that is shown."""

        def find() -> Any:
            return self.run(
                "return [...document.querySelectorAll(arguments[0])]"
                ".find((one) => one.checkVisibility() && one.textContent.includes(arguments[1]))",
                css,
                text,
            )

        self.until(find, f"{css} {text!r}").click()

    def type(self, *keys: str) -> None:
        """Types into whatever has the focus."""
        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def fill(self, css: str, text: str) -> None:
        """Types into an input, in place of what is there."""
        self.run("const one = document.querySelector(arguments[0]); one.focus(); one.select()", css)
        self.type(text)

    @property
    def focus(self) -> str:
        """What has the focus: a row's key, or an id, or a text."""
        found: str = self.run("const one = document.activeElement; return one.dataset.key || one.id || one.textContent")
        return found

    def faults(self, rules: object = RULES) -> list[str]:
        """What axe finds to be hard to use for some."""
        if not self.run("return 'axe' in window"):
            self.run(AXE.read_text())
        results = self.run_module("return await axe.run(document, given[0])", rules)
        return [
            f"{fault['id']}: {json.dumps([n['html'][:200] for n in fault['nodes']])}" for fault in results["violations"]
        ]
