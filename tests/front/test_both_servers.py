"""The same bytes to both servers: what they answer is the same, byte for byte, but for the date."""

import asyncio

import pytest
from world import conversation

KINDS = ["tornado", "front"]
LIVE = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def a(method: str, path: str, body: bytes = b"", *headers: str, host: str = "Host: h") -> bytes:
    """A request."""
    lines = [f"{method} {path} HTTP/1.1", host, *headers]
    if body or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(*chunks: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return b"POST /register HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + framed


H2C = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"]
USERS = b'{"service_name":"users","base_url":"http://10.0.0.5:8000","instance_id":"users-1"}'
REGISTER = a("POST", "/register", USERS)

WELL_FORMED = {
    "register, heartbeat, look up": REGISTER
    + a("POST", "/heartbeat/users-1")
    + a("GET", "/services/users")
    + a("GET", "/services/users"),
    "the hot calls for what is not there": a("GET", "/services/users") + a("POST", "/heartbeat/users-1"),
    "the hot calls badly asked": a("GET", "/services/%20")
    + a("POST", "/register", b"{}")
    + a("POST", "/register", b"{"),
    "the hot calls with parameters": REGISTER
    + a("GET", "/services/users?limit=1")
    + a("POST", "/heartbeat/users-1?x=1"),
    "a heartbeat that reports": REGISTER
    + a("POST", "/heartbeat/users-1", b'{"status":"down"}')
    + a("GET", "/services/users"),
    "the hot calls in other spellings": REGISTER
    + a("GET", "/services/users/")
    + a("GET", "/services/%75sers")
    + a("POST", "/register/", USERS)
    + a("POST", "/heartbeat/users%2d1"),
    "a look-up with a body": REGISTER + a("GET", "/services/users", b"x" * 10),
    "not modified": REGISTER + a("GET", "/services/users", b"", 'If-None-Match: W/"1000001"'),
    "not modified, any": REGISTER + a("GET", "/services/users", b"", "If-None-Match: *"),
    "modified": REGISTER + a("GET", "/services/users", b"", 'If-None-Match: W/"7"'),
    "HEAD": REGISTER + a("HEAD", "/services/users") + a("HEAD", "/instances/users-1") + a("HEAD", "/nothing"),
    "OPTIONS": a("OPTIONS", "/services/users") + a("OPTIONS", "/register"),
    "errors of each kind": a("GET", "/nothing") + a("PUT", "/register", b"x") + a("GET", "/services?x=1"),
    "drain and resume": REGISTER
    + a("POST", "/drain/users-1", b'{"reason":"deploy"}')
    + a("GET", "/services/users")
    + a("POST", "/resume/users-1")
    + a("GET", "/services/users"),
    "deregister": REGISTER + a("DELETE", "/deregister/users-1") + a("GET", "/services/users"),
    "a body in chunks": chunked(USERS[:5], USERS[5:]) + a("GET", "/services/users"),
    "an empty body in chunks": chunked(),
    "a body over the limit": a("POST", "/register", b"x" * 1001) + REGISTER,
    "a chunked body over the limit": chunked(b"x" * 600, b"x" * 600) + REGISTER,
    "a URL over the limit": a("GET", "/services/" + "x" * 200) + REGISTER,
    "headers over the limit": a("GET", "/services", b"", "X: " + "x" * 500) + REGISTER,
    "many headers over the limit": REGISTER + a("GET", "/services/users", b"", *["X: y"] * 100) + REGISTER,
    "no host": b"GET /services HTTP/1.1\r\n\r\n" + REGISTER,
    "two hosts": a("GET", "/services/users", b"", "Host: g") + REGISTER,
    "a bad host": a("GET", "/services/users", host="Host: a/b") + REGISTER,
    "odd hosts": REGISTER + a("GET", "/services/users", host="Host: [::1]:80") + a("GET", "/services", host="Host:"),
    "white space around a value": a("GET", "/services/users", b"", "X:\t y \t") + REGISTER,
    "the absolute form": a("GET", "http://h:1/services/users") + a("GET", "http://h"),
    "a question mark and a fragment": a("GET", "/services/users?") + a("GET", "/services/users#x"),
    "an empty line before a request": b"\r\n" + REGISTER,
    "an upgrade that nobody offers": a("GET", "/services", b"", "Connection: upgrade", "Upgrade: h2c") + REGISTER,
    "an upgrade with a body": a("POST", "/register", USERS, *H2C) + a("GET", "/services/users"),
    "an upgrade with a report": REGISTER + a("POST", "/heartbeat/users-1", b'{"status":"down"}', *H2C),
    "an upgrade with a body in chunks": chunked(USERS).replace(b"Host: h", b"Host: h\r\n" + "\r\n".join(H2C).encode())
    + a("GET", "/services/users"),
    "an upgrade whose body looks like a request": REGISTER
    + a("POST", "/heartbeat/users-1", a("DELETE", "/deregister/users-1"), *H2C)
    + a("GET", "/services/users"),
    "keep-alive said aloud": REGISTER + a("GET", "/services/users", b"", "Connection: keep-alive"),
    "an expectation": a("POST", "/register", USERS, "Expect: 100-continue") + REGISTER,
    "a look-up after a failed one": a("GET", "/services/users", b"", "X: y")
    + REGISTER
    + a("GET", "/services/users", b"", "X: y"),
    "HTTP/1.0 kept alive": b"GET /services/users HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + REGISTER,
}


async def both(parts: list[bytes]) -> tuple[bytes, bytes]:
    tornado, front = [await conversation(kind, parts) for kind in KINDS]
    return tornado.replace(b" 100 (Continue)", b" 100 Continue"), front


@pytest.mark.parametrize("requests", WELL_FORMED.values(), ids=WELL_FORMED)
def test_the_answers_are_the_same_however_the_requests_come(requests: bytes) -> None:
    async def story() -> None:
        data = requests + LAST
        tornado, front = await both([data])
        assert front == tornado
        assert front.endswith(b"\r\n\r\nok\n"), "the connection stayed in order"

        ways = {
            "byte by byte": [data[n : n + 1] for n in range(len(data))],
            "request by request": [part + b"\r\n\r\n" for part in data.split(b"\r\n\r\n")[:-1]],
            "in pieces of seven": [data[n : n + 7] for n in range(0, len(data), 7)],
        }
        for way, parts in ways.items():
            assert await conversation("front", parts) == front, way

    asyncio.run(story())


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /livez HTTP/1.0\r\n\r\n",
        b"HEAD /livez HTTP/1.0\r\n\r\n",
        a("GET", "/livez", b"", "Connection: close") + REGISTER,
        a("POST", "/register", b"x" * 1001, "Connection: close"),
        b"POST /register HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n",
    ],
)
def test_what_closes_the_connection_closes_it_on_both(request_bytes: bytes) -> None:
    tornado, front = asyncio.run(both([request_bytes]))

    assert front == tornado
    assert front.count(b"HTTP/1.1 ") == 1


def test_the_front_says_what_is_wrong_with_it() -> None:
    heard = asyncio.run(conversation("front", [b"GET /services HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n"]))

    head, _, body = heard.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"HTTP/1.1 400 Bad Request"
    assert b"Connection: close" in head
    assert b"Content-Type: application/problem+json" in head
    assert body == (
        b'{"type":"about:blank","title":"Bad Request","status":400,'
        b'"detail":"this is not a good HTTP request: invalid header token","code":"bad_request"}\n'
    )


# Where they differ, and both are right: what one cannot read, the other can.
DIFFERENT = {
    "bare line feeds": (b"GET /livez HTTP/1.1\nHost: h\n\n", b"200", b"400"),
    "chunks with extensions": (chunked(USERS).replace(b"\r\n{", b";a=b\r\n{", 1), b"400", b"200"),
    "the same length twice": (a("POST", "/resume/x", b"abc", "Content-Length: 3"), b"400", b"400"),
    "trailers": (a("GET", "/livez", b"", "Transfer-Encoding: chunked") + b"0\r\nT: v\r\n\r\n", b"400", b"200"),
    "two spaces": (b"GET  /livez HTTP/1.1\r\nHost: h\r\n\r\n", b"400", b"200"),
    "bytes beyond ASCII in the URL": (b"GET /services/\xff HTTP/1.1\r\nHost: h\r\n\r\n", b"400", b"400"),
    "CONNECT with a body": (a("CONNECT", "/livez", LIVE), b"405", b"400"),
    "a method that nobody knows": (a("BREW", "/livez"), b"405", b"501"),
}


@pytest.mark.parametrize(("request_bytes", "tornado", "front"), DIFFERENT.values(), ids=DIFFERENT)
def test_where_they_differ_is_known(request_bytes: bytes, tornado: bytes, front: bytes) -> None:
    heard = asyncio.run(both([request_bytes + LAST]))

    assert tuple(answer[9:12] for answer in heard) == (tornado, front)
