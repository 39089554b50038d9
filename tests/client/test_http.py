"""One call of a program that may wait: answers, refusals, and registries that are none or not there."""

import socket
import threading
from contextlib import closing
from pathlib import Path

import pytest
import trustme
from scripted import Asked, StartScripted, answered, problem
from support import ManualClock

from registryd.client.errors import (
    BadSetting,
    NotARegistry,
    Refused,
    RegistrydError,
    RegistryUnreachable,
    TokenRefused,
)
from registryd.client.http import Client, Wire
from registryd.client.registries import Registries

NOBODY = "http://127.0.0.1:1"


def client(*urls: str, token: str = "", **files: str) -> Client:
    return Client(Registries(urls, token, **files))


def test_a_call_sends_json_and_the_token_and_gives_back_what_comes(start_scripted: StartScripted) -> None:
    registry = start_scripted(lambda asked: answered({"done": asked.path}))
    said = client(f"{registry.url}/", token="rgd_x").call("POST", "/drain/a%2Bb?x=1", {"reason": "é"})

    assert said == {"done": "/drain/a%2Bb?x=1"}
    (asked,) = registry.asked
    assert (asked.method, asked.body) == ("POST", b'{"reason": "\\u00e9"}')
    assert asked.headers["authorization"] == "Bearer rgd_x"


def test_the_environment_says_where_and_as_whom(start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = start_scripted(lambda asked: answered([]))
    monkeypatch.setenv("REGISTRY_URL", f"{NOBODY}, {registry.url}/registry")
    monkeypatch.setenv("REGISTRY_TOKEN", " rgd_y ")

    assert Client().call("GET", "/services") == []
    assert registry.asked[0].path == "/registry/services"
    assert registry.asked[0].headers["authorization"] == "Bearer rgd_y"


def test_the_one_that_answers_is_stayed_with(start_scripted: StartScripted) -> None:
    is_up = threading.Event()
    first = start_scripted(lambda asked: answered([1]) if is_up.is_set() else problem(503, "recovering"))
    second = start_scripted(lambda asked: answered([2]))
    both = client(first.url, second.url)
    assert both.call("GET", "/services") == [2]

    is_up.set()
    assert both.call("GET", "/services") == [2]


@pytest.mark.parametrize(
    ("status", "kind"), [(400, Refused), (401, TokenRefused), (403, TokenRefused), (404, Refused), (409, Refused)]
)
def test_a_refusal_is_raised_with_the_registrys_words_and_no_other_is_asked(
    start_scripted: StartScripted, status: int, kind: type[Refused]
) -> None:
    first = start_scripted(lambda asked: problem(status, "some_code", "do this"))
    second = start_scripted(lambda asked: answered([]))
    with pytest.raises(Refused, match=r"^do this$") as caught:
        client(first.url, second.url).call("GET", "/services")

    assert (type(caught.value), caught.value.status, caught.value.code) == (kind, status, "some_code")
    assert second.asked == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_one_that_cannot_now_is_passed_over_and_believed_where_there_is_no_other(
    start_scripted: StartScripted, status: int
) -> None:
    first = start_scripted(lambda asked: problem(status, "not_now", "try again later"))
    second = start_scripted(lambda asked: answered([]))
    assert client(first.url, second.url).call("GET", "/services") == []

    with pytest.raises(Refused, match="try again later") as caught:
        client(NOBODY, first.url).call("GET", "/services")
    assert caught.value.status == status


@pytest.mark.parametrize(
    "said",
    [
        (200, "text/html", b"<h1>Welcome</h1>"),
        (200, "application/json", b"3"),
        (200, "application/json", b"[" * 100_000),
        (404, "text/html", b"<h1>Not Found</h1>"),
        (502, "application/json", b'{"error": "bad gateway"}'),
        (302, "text/html", b""),
    ],
)
def test_what_is_no_registry_is_said_in_one_line(start_scripted: StartScripted, said: tuple[int, str, bytes]) -> None:
    wrong = start_scripted(lambda asked: said)
    with pytest.raises(
        NotARegistry,
        match=rf"^what answers at {wrong.url} is no registry \(status {said[0]}\); set REGISTRY_URL$",
    ):
        client(wrong.url.replace("//", "//user:secret@")).call("GET", "/services")
    assert wrong.asked[0].headers["authorization"] == "Basic dXNlcjpzZWNyZXQ="


def test_nobody_there_is_said_of_each(start_scripted: StartScripted) -> None:
    with pytest.raises(RegistryUnreachable, match=rf"^no answer from the registry at {NOBODY}: Connection refused$"):
        client(NOBODY).call("GET", "/services")
    with pytest.raises(RegistryUnreachable, match=r"127\.0\.0\.1:1: .*; no answer from the registry at localhost:8006"):
        client(NOBODY, "localhost:8006").call("GET", "/services")
    with pytest.raises(RegistrydError, match=r"127\.0\.0\.2:1"):
        list(client(NOBODY, "http://127.0.0.2:1").watch())


@pytest.mark.parametrize(
    "url", ["localhost:8006", "http://", "http://h:port", "ftp://h:1", "", "http://h:0", "http://h..h:1"]
)
def test_a_url_that_is_none_is_no_answer(url: str) -> None:
    with pytest.raises(RegistryUnreachable, match="this is no http:// or https:// URL"):
        client(url).call("GET", "/services")


def test_one_that_never_says_a_word_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RegistryUnreachable, match="timed out"):
            client(url).call("GET", "/services", timeout=0.05)


def test_files_for_tls_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca")
    (tmp_path / "text").write_text("no PEM")
    with pytest.raises(BadSetting, match=r"cannot use the authorities in \S+/text: .*; set REGISTRY_CA"):
        client("https://h:1", ca=str(tmp_path / "text")).call("GET", "/services")
    with pytest.raises(BadSetting, match=r"\S+/none: No such file or directory; set REGISTRY_CERT and REGISTRY_KEY"):
        client("https://h:1", cert=str(tmp_path / "none")).call("GET", "/services")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (problem(403, "forbidden"), TokenRefused),
        (problem(503, "recovering"), Refused),
        ((200, "text/html", b"hello"), NotARegistry),
        (answered({}), NotARegistry),
    ],
)
def test_a_watch_that_is_refused_is_raised(
    start_scripted: StartScripted, said: tuple[int, str, bytes], kind: type[RegistrydError]
) -> None:
    registry = start_scripted(lambda asked: said)
    with pytest.raises(kind) as caught:
        list(client(registry.url).watch(["users", "a b"], 7))

    assert type(caught.value) is kind
    asked: Asked = registry.asked[0]
    assert (asked.path, asked.headers["last-event-id"]) == ("/watch?service=users&service=a+b", "7")


def test_another_registry_is_not_told_an_index_that_means_nothing_there(start_scripted: StartScripted) -> None:
    said = 200, "text/event-stream", b'event: snapshot\nid: 7\ndata: {"instances":[]}\n\n'
    first, second = start_scripted(lambda asked: said), start_scripted(lambda asked: said)
    both = client(first.url, second.url)
    for _ in range(2):
        assert [event.index for event in both.watch(["users"], 7)] == [7]
    first.close()
    assert [event.index for event in both.watch(["users"], 7)] == [7]
    assert [event.index for event in both.watch(["users"], 7)] == [7]

    assert [asked.headers.get("last-event-id") for asked in first.asked + second.asked] == ["7", "7", None, "7"]


def test_a_watch_goes_to_the_next_where_one_cannot_now(start_scripted: StartScripted) -> None:
    said = 200, "text/event-stream", b": still here\n\n"
    first, second = start_scripted(lambda asked: problem(503, "recovering")), start_scripted(lambda asked: said)
    assert [event.kind for event in client(first.url, second.url).watch()] == [""]


def test_what_had_come_while_nobody_looked_is_no_newer_than_the_last_look() -> None:
    clock = ManualClock()
    ours, theirs = socket.socketpair()
    with theirs, closing(Wire(ours, clock.now, clock.now())) as wire:
        theirs.sendall(b": still here\n\n")
        clock.advance(60)  # as where the process is stopped
        buffer = bytearray(100)
        assert wire.readinto(buffer) == 14
        assert wire.heard_at == 1000
        clock.advance(5)
        threading.Timer(0.05, theirs.sendall, [b": still here\n\n"]).start()
        assert wire.readinto(buffer) == 14
        assert wire.heard_at == 1065, "it was looked for then, and had not come"
