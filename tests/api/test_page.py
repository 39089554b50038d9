"""The dashboard's files as HTTP sees them: what is sent, with which headers, to whom. tests/browser/ looks at it."""

import re

from conftest import Api, ExpectLog, refused

from registryd.api.base import SERVER
from registryd.api.page import FOLDER, POLICY, files

PATHS = ["/", *(f"/static/{name}" for name in sorted(files()))]
INDEX = (FOLDER / "index.html").read_text()


TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


async def test_every_file_is_sent_with_what_keeps_it_apart_from_other_sites(api: Api) -> None:
    for path in PATHS:
        answer = await api.get(path)
        name = path.removeprefix("/static/").removeprefix("/") or "index.html"
        assert (answer.status, answer.body) == (200, (FOLDER / name).read_bytes())
        own = {"Date", "Etag", "Content-Length", "Connection"}
        assert {name: value for name, value in answer.headers.items() if name not in own} == {
            "Server": SERVER,
            "Content-Type": TYPES[name.rpartition(".")[2]],
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": POLICY,
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
            "Cache-Control": "no-cache",
        }


def test_the_policy_lets_nothing_in_but_files_from_here() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))

    assert rules.pop("require-trusted-types-for") == "'script'"
    assert set(rules.values()) == {"'self'", "'none'"}
    assert {name for name, source in rules.items() if source == "'self'"} == {
        "script-src", "style-src", "connect-src", "img-src",
    }  # fmt: skip
    assert rules["default-src"] == rules["frame-ancestors"] == rules["form-action"] == rules["base-uri"] == "'none'"


async def test_an_unchanged_file_is_not_sent_again(api: Api) -> None:
    for path in PATHS:
        etag = (await api.get(path)).headers["Etag"]
        again = await api.get(path, If_None_Match=etag)
        assert (again.status, again.body) == (304, b"")
        assert again.headers["Content-Security-Policy"] == POLICY
        assert (await api.get(path, If_None_Match='"another"')).status == 200
    assert len({file.etag for file in files().values()}) == len(files())


async def test_verbs_and_paths_are_as_elsewhere(api: Api) -> None:
    for path in ("/", "/static/main.js"):
        get, head = await api.get(path), await api("HEAD", path)
        assert (head.status, head.body, head.headers.keys()) == (200, b"", get.headers.keys())
        assert head.headers["Etag"] == get.headers["Etag"]
        options = await api("OPTIONS", path)
        assert (options.status, options.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
        post = await api.post(path)
        refused(post, 405, "method_not_allowed")
        assert post.headers["Allow"] == "GET, HEAD, OPTIONS"
        refused(await api.get(f"{path}?x=1"), 400, "unknown_parameter", "x")
    assert (await api.get("/static/main.js/")).status == 200
    for path in (
        "/static",
        "/static/",
        "/static/nothing.js",
        "/static/main.js/x",
        "/static/..%2Fpage.py",
        "/index.html",
    ):
        refused(await api.get(path), 404, "unknown_path")
    refused(await api.get("/static/py.typed"), 404, "unknown_path")


async def test_under_the_name_of_another_site_there_is_no_page_to_type_a_token_into(
    api: Api, expect_log: ExpectLog
) -> None:
    for path in ("/", "/static/main.js"):
        with expect_log("refused peer=127.0.0.1 request=GET /.*'evil.example'"):
            refused(await api.get(path, Host="evil.example"), 421, "unknown_host")


def test_the_page_has_nothing_inline_and_nothing_of_others() -> None:
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?:", INDEX)
    assert set(re.findall(r'(?:src|href)="static/([^"]+)"', INDEX)) <= files().keys()
    for name, file in files().items():
        text = file.content.decode()
        if name.endswith(".js"):
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
            assert set(re.findall(r'from "\./([^"]+)"', text)) <= files().keys()
        if name.endswith(".css"):
            assert "url(" not in text
            assert "@import" not in text
