"""What is fuzzed: functions that take any bytes, and raise where a promise is broken. fuzz.py feeds them."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote_from_bytes

from raw import RawAnswer, answers_in
from shaking import SEEDS, nothing_logged, shaken
from support import a_registration
from world import connect, until, world

from registryd import auth, config
from registryd.core.errors import Unauthorized
from registryd.core.limits import Limits

#: How many bytes say how the others come: how much is read of the answers, how it ends, and where they are cut.
_HOW = 4
_ROOMS = (2**30, 0, 200)
_ENDS = ("half open", "gone")

#: Calls by their request lines; a body is fuzzed of the first ones, a target of all methods.
CALLS = [b"POST /register", b"POST /heartbeat/i1", b"POST /heartbeats", b"POST /drain/i1", b"DELETE /deregister/i1"]
METHODS = [b"GET", b"HEAD", b"POST", b"DELETE", b"OPTIONS"]
#: What a call may answer to a body, and what to a target.
OF_BODIES = {200, 400, 404, 409, 413, 429}
OF_TARGETS = {200, 204, 400, 404, 405, 408, 409, 414, 429}


class Target(NamedTuple):
    """One function that takes any bytes, and some that it takes well."""

    one: Callable[[bytes], None]
    seeds: list[bytes]


def front(data: bytes) -> None:
    """Bytes to the front, in pieces."""
    how, data = data[:_HOW].ljust(_HOW, b"\0"), data[_HOW:]
    cuts = sorted(byte * len(data) // 255 for byte in how[1:])
    shaken(data, cuts, _ROOMS[how[0] % 3], _ENDS[how[0] // 3 % 2])


def body(data: bytes) -> None:
    """A body to one of the calls that take one."""
    call, data = CALLS[(data or b"\0")[0] % len(CALLS)], data[1:]
    head = b"%b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (call, len(data))
    with nothing_logged():
        answer = asyncio.run(_ask(head + data))
    assert answer.status in OF_BODIES, answer


def target(data: bytes) -> None:
    """A path with parameters, percent-encoded where no URL could have it as it is."""
    method, data = METHODS[(data or b"\0")[0] % len(METHODS)], data[1:]
    text = quote_from_bytes(data, safe="/?#[]@!$&'()*+,;=%:\"<>\\^`{|}")
    with nothing_logged():
        answer = asyncio.run(_ask(b"%b /%b HTTP/1.1\r\nHost: h\r\n\r\n" % (method, text.encode())))
    assert answer.status in OF_TARGETS, answer


async def _ask(request: bytes) -> RawAnswer:
    """What is answered to a request, by handler or hot call; of a stream, what comes of it first."""
    async with world("front", Limits()) as there:
        await there.registry.register(a_registration())
        transport = connect(there)
        transport.protocol.data_received(request)
        feed = there.registry.feed
        await until(lambda: transport.written or feed.watchers, "an answer, or someone who waits for one")
        if not transport.written:  # nobody has ten minutes here
            transport.lose()
            await until(lambda: not feed.watchers, "he is gone")
            return RawAnswer(200, {}, b"")
        transport.lose()
        answers, rest = answers_in(bytes(transport.written))
        if not answers and b"text/event-stream" in rest:
            return RawAnswer(200, {}, rest)
        (answer,) = answers
        assert answer.status != 500
        return answer


def settings(data: bytes) -> None:
    """A settings file; where it begins with a zero, its lines are the environment."""
    if data[:1] == b"\0":
        lines = [line.partition("=") for line in data[1:].decode("utf-8", "surrogateescape").split("\n")]
        _load([], {name: value for name, _, value in lines if name != "REGISTRYD_SETTINGS"})
    else:
        _in_file(data, lambda path: _load(["--settings", path], {}))


def _load(argv: list[str], environ: dict[str, str]) -> None:
    try:
        assert isinstance(config.load(argv, environ), config.Config)
    except config.BadSetting as error:
        _must_be_a_line(str(error))


def auth_file(data: bytes) -> None:
    """An auth file, and who it lets in."""

    def read(path: str) -> None:
        try:
            access = auth.Access(auth.read(path))
        except auth.BadAuthFile as error:
            _must_be_a_line(str(error))
            return
        for shown in (None, "Bearer x", "Bearer \xff"):
            with contextlib.suppress(Unauthorized):
                access.caller(shown, "CN=x").may("read", "users")

    _in_file(data, read)


def _in_file(data: bytes, read: Callable[[str], None]) -> None:
    with open(os.memfd_create("fuzzed"), "wb", buffering=0) as file:  # no disk could keep up
        file.write(data)
        read(f"/proc/self/fd/{file.fileno()}")


def _must_be_a_line(text: str) -> None:
    assert text, "it says something"
    assert len(text.splitlines()) == 1, text
    assert text.isprintable(), text


_REGISTRATION = (
    b'{"service_name":"users","base_url":"http://h:1/","instance_id":"i1","ttl":3.5,"status":"up",'
    b'"metadata":{"a":"b"},"tags":["x"],"version":"1","zone":"z","weight":1}'
)
_HASH = b"sha256:" + b"0" * 64

TARGETS = {
    "front": Target(front, [bytes(_HOW) + seed for seed in SEEDS]),
    "json": Target(
        body,
        [
            b"\0" + _REGISTRATION,
            b'\1{"status":"down","weight":2,"metadata":{}}',
            b'\2{"instance_ids":["i1","\\u0041"]}',
            b'\3{"reason":"r","for":1e3}',
            b"\4{}",
        ],
    ),
    "target": Target(
        target,
        [
            b"\0services/users?status=up,down&tag=a&zone=z&meta.k=v&near=z&limit=2&pick=1&version=1",
            b"\0services?index=1&wait=1s",
            b"\0services/users?min=0&index=3",
            b"\2heartbeat/i1?generation=1",
            b"\3deregister/%69%31",
            b"\1explain/users",
            b"\0watch?service=users",
            b"\4instances/i1/",
        ],
    ),
    "settings": Target(
        settings,
        [
            b"# c\nREGISTRYD_PORT=80\nREGISTRYD_HOST='::1'\n; d\nHEARTBEAT_TIMEOUT=\"2.5\"\n",
            b"\0REGISTRYD_ALLOW_HOSTS=a,b.c\nREGISTRYD_LOG_LEVEL=info\nREGISTRYD_MAX_BODY_BYTES=7\nFDSTORE=1",
        ],
    ),
    "auth": Target(
        auth_file,
        [
            b'[tokens."a"]\nhash = "' + _HASH + b'"\nallow = ["read"]\nservices = ["u*"]\n[anyone]\nallow = []\n',
            b"a = [[[[{b = [[[[",
            b'"a\\nb" = 1',
            b'[tokens.b]\nsubject = "CN=x"\nallow = ["admin", "operate"]\n',
        ],
    ),
}
