"""Input is limited while it arrives; what is refused gets its answer, and the connection stays in order."""

import asyncio
import contextlib
import gzip
import json
from typing import cast

import pytest
from conftest import Api, ExpectLog
from raw import Served, Wire
from support import RecordingStore, a_registration, up
from tornado.httputil import HTTPHeaders, RequestStartLine

from registryd.api.context import UnderWay
from registryd.api.intake import PATIENCE, IntakeServer
from registryd.core.limits import Limits
from registryd.front.exchange import Exchange, Peer
from registryd.front.server import FrontServer
from registryd.registry import Registry

NEXT = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
def limits() -> Limits:
    return Limits(body_bytes=1000, header_bytes=500, url_bytes=200)


def a_post(body: bytes, *headers: bytes, path: bytes = b"/register") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: h", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class GoneLine:
    """A connection that has gone."""

    peer = Peer("127.0.0.1", "http")

    def send(self, data: bytes) -> "asyncio.Future[None]":
        raise AssertionError(f"nobody is there to get {data!r}")

    def abort(self) -> None:
        pass

    def reset(self) -> None:
        pass

    def ended(self, exchange: Exchange) -> None:
        pass

    def ends_with(self, exchange: Exchange) -> bool:
        return False


async def is_in_order(wire: Wire) -> bool:
    """Whether the connection serves another request."""
    await wire.send(NEXT)
    return (await wire.answer()).status == 200


async def test_a_body_at_the_limit_is_taken(http_server: Served) -> None:
    body = json.dumps({"service_name": "users", "base_url": "http://h"}).encode().ljust(1000)
    async with Wire(http_server) as wire:
        await wire.send(a_post(body))
        assert (await wire.answer()).status == 200
        assert await is_in_order(wire)


async def test_a_body_over_the_limit_is_refused_while_it_arrives(http_server: Served, store: RecordingStore) -> None:
    async with Wire(http_server) as wire:
        await wire.send(a_post(b"x" * 1001)[:-1])  # the last byte does not come yet
        answer = await wire.answer()

        assert (answer.status, answer.headers["Content-Type"]) == (413, "application/problem+json")
        problem = json.loads(answer.body)
        assert problem["code"] == "body_too_large"
        assert problem["detail"] == "the body is over the limit of 1000 bytes (--max-body-bytes); send a smaller one"
        await wire.send(b"x")
        assert await is_in_order(wire)
    assert store.changes == []


async def test_a_chunked_body_is_refused_when_it_passes_the_limit(http_server: Served) -> None:
    async with Wire(http_server) as wire:
        await wire.send(b"POST /register HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            await wire.send(b"190\r\n" + b"x" * 400 + b"\r\n")
        assert (await wire.answer()).status == 413
        await wire.send(b"0\r\n\r\n")
        assert await is_in_order(wire)


async def test_a_chunked_body_within_the_limit_is_read(http_server: Served) -> None:
    async with Wire(http_server) as wire:
        await wire.send(b"POST /register HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (b'{"service_name":"users",', b'"base_url":"http://h:1"}', b""):
            await wire.send(b"%x\r\n%b\r\n" % (len(part), part))
        assert (await wire.answer()).status == 200


async def test_a_body_without_end_is_cut_off_after_its_answer(http_server: Served, under_way: UnderWay) -> None:
    size = (PATIENCE + 1) * 1000
    async with Wire(http_server) as wire:
        await wire.send(b"POST /register HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % 10**15)
        answer = await wire.answer()
        assert (answer.status, answer.headers["Connection"]) == (413, "close")

        await wire.send(b"x" * size)
        assert await wire.rest() == b""
    await under_way.wait_until_none()


async def test_who_asks_before_sending_gets_the_refusal_at_once(http_server: Served) -> None:
    async with Wire(http_server) as wire:
        await wire.send(a_post(b"x" * 1001, b"Expect: 100-continue").partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        answer = await wire.answer()

        assert (answer.status, answer.headers["Connection"]) == (413, "close")
        assert await wire.rest() == b""


async def test_who_asks_before_sending_what_is_allowed_is_told_to_go_on(http_server: Served) -> None:
    body = b'{"service_name":"users","base_url":"http://h"}'
    async with Wire(http_server) as wire:
        await wire.send(a_post(body, b"Expect: 100-continue").removesuffix(body))
        assert (await wire.answer()).status == 100
        await wire.send(body)
        assert (await wire.answer()).status == 200


@pytest.mark.parametrize("coding", [b"gzip", b"GZIP, identity", b"br", b"deflate", b"zstd", b"x" * 100])
async def test_a_compressed_body_is_refused_and_not_decompressed(
    http_server: Served, store: RecordingStore, coding: bytes
) -> None:
    body = gzip.compress(b'{"service_name":"users","base_url":"http://h"}')
    async with Wire(http_server) as wire:
        await wire.send(a_post(body, b"Content-Encoding: " + coding))
        answer = await wire.answer()

        assert (answer.status, json.loads(answer.body)["code"]) == (415, "unsupported_encoding")
        assert answer.headers["Accept-Encoding"] == "identity"
        assert await is_in_order(wire)
    assert store.changes == []


async def test_a_body_that_is_said_to_be_as_it_is_is_taken(http_server: Served) -> None:
    async with Wire(http_server) as wire:
        for coding in (b"identity", b"Identity", b""):
            await wire.send(a_post(b'{"service_name":"users","base_url":"http://h"}', b"Content-Encoding: " + coding))
            assert (await wire.answer()).status == 200


async def test_answers_are_never_compressed(http_server: Served, registry: Registry) -> None:
    await registry.register(a_registration(metadata={str(n): "x" * 1000 for n in range(60)}))
    asked = b"GET %b HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip, br;q=1.0, *\r\n\r\n"
    async with Wire(http_server) as wire:
        for path in (b"/services/users", b"/services/users?limit=1", b"/openapi.json"):
            await wire.send(asked % path)
            answer = await wire.answer()
            assert answer.status == 200
            assert "Content-Encoding" not in answer.headers
            assert answer.body.startswith(b"{")


@pytest.mark.parametrize(
    ("request_bytes", "status", "code", "flag"),
    [
        (b"GET /services/" + b"x" * 200 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414, "url_too_long", "--max-url-bytes"),
        (
            b"GET /services HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 500 + b"\r\n\r\n",
            431,
            "headers_too_large",
            "--max-header-bytes",
        ),
        (
            b"GET /services HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 100 + b"\r\n",
            431,
            "headers_too_large",
            "--max-header-bytes",
        ),
    ],
)
async def test_a_request_line_or_header_block_over_its_limit_is_refused(
    http_server: Served, request_bytes: bytes, status: int, code: str, flag: str
) -> None:
    async with Wire(http_server) as wire:
        await wire.send(request_bytes)
        answer = await wire.answer()

        assert (answer.status, json.loads(answer.body)["code"]) == (status, code)
        assert flag in json.loads(answer.body)["detail"]
        assert await is_in_order(wire)


async def test_a_refused_head_has_no_body(http_server: Served) -> None:
    async with Wire(http_server) as wire:
        await wire.send(b"HEAD /services/" + b"x" * 200 + b" HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await wire.answer(head=True)).status == 414
        assert await is_in_order(wire)


async def test_headers_without_end_are_cut_off(http_server: Served, under_way: UnderWay) -> None:
    async with Wire(http_server) as wire:
        await wire.send(b"GET /services HTTP/1.1\r\nHost: h\r\nX: " + b"x" * (PATIENCE * 700 + 1000))
        rest = await wire.rest()
        assert rest == b"" or rest.startswith(b"HTTP/1.1 431 ")
    await under_way.wait_until_none()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /services HTTP/1.1\r\n\r\n",
        b"GET /services HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /services HTTP/1.1\r\nHost: a/b\r\n\r\n",
    ],
)
async def test_a_request_without_a_good_host_is_refused_in_order(http_server: Served, request_bytes: bytes) -> None:
    async with Wire(http_server) as wire:
        await wire.send(request_bytes)
        answer = await wire.answer()

        assert (answer.status, json.loads(answer.body)["code"]) == (400, "bad_request")
        assert await is_in_order(wire)


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"POST",
        b"POST /register HTTP/1.1\r\nHost: h\r\n",
        a_post(b'{"service_name":"users","base_url":"http://h"}')[:-1],
        b"POST /register HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n17\r\n{",
        a_post(b"x" * 2000)[:-500],
    ],
)
async def test_a_client_that_leaves_half_way_leaves_nothing_behind(
    http_server: Served, under_way: UnderWay, store: RecordingStore, api: Api, part: bytes
) -> None:
    async with Wire(http_server) as wire:
        await wire.send(part)
    assert (await api.get("/livez")).status == 200  # by then the server has seen the other one leave, or will
    await under_way.wait_until_none()

    assert store.changes == []


async def test_a_client_that_leaves_before_its_answer_leaves_nothing_behind(
    http_server: Served, under_way: UnderWay, store: RecordingStore, registry: Registry
) -> None:
    store.hold()
    async with Wire(http_server) as wire:
        await wire.send(a_post(b'{"service_name":"users","base_url":"http://h"}'))
        await store.waiting.wait()
        assert len(under_way) == 1
    store.release()
    await under_way.wait_until_none()

    assert len(up(registry, "users")) == 1, "it asked, so it is registered; the lease will tell"


async def test_a_request_is_under_way_until_it_is_answered(
    http_server: Served, under_way: UnderWay, store: RecordingStore
) -> None:
    store.hold()
    async with Wire(http_server) as wire:
        request = a_post(b'{"service_name":"users","base_url":"http://h"}')
        await wire.send(request[:-1])
        await wire.send(request[-1:])
        await store.waiting.wait()
        assert len(under_way) == 1

        waiting = asyncio.ensure_future(under_way.wait_until_none())
        store.release()
        assert (await wire.answer()).status == 200
        await waiting
        assert len(under_way) == 0


async def test_an_answer_that_nobody_reads_is_not_kept_for_ever(
    http_server: Served, under_way: UnderWay, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registryd.api.base.UNREAD_TIMEOUT", 0.05)
    if isinstance(http_server.http, FrontServer):
        http_server.http._shared.timeouts = http_server.http._shared.timeouts._replace(unread=0.05)
    metadata = {str(n): "x" * 1000 for n in range(60)}
    for n in range(200):
        await registry.register(a_registration(instance_id=str(n), metadata=metadata))
    async with Wire(http_server) as wire:
        wire.pause()
        await wire.send(b"GET /services/users?limit=200 HTTP/1.1\r\nHost: h\r\n\r\n")  # 12 MB, more than a socket holds
        while not len(under_way):
            await asyncio.sleep(0)
        await under_way.wait_until_none()
        await wire.was_reset()


async def test_what_is_still_read_of_a_body_that_was_given_up_is_dropped(
    http_server: Served, under_way: UnderWay
) -> None:
    start, headers = RequestStartLine("POST", "/register", "HTTP/1.1"), HTTPHeaders({"Host": "h"})
    request = Exchange(GoneLine(), start, headers, keep_alive=True)
    http = http_server.http
    intake = http._shared.delegate if isinstance(http, FrontServer) else cast("IntakeServer", http)._intake
    message = intake.start_request(request, request)
    message.headers_received(start, headers)
    message.data_received(b"{")
    message.on_connection_close()
    message.data_received(b"}")
    message.data_received(b" " * 2000)
    message.finish()
    assert len(under_way) == 0


async def test_a_client_that_leaves_while_it_is_answered_leaves_nothing_behind(
    http_server: Served, under_way: UnderWay, registry: Registry
) -> None:
    metadata = {str(n): "x" * 1000 for n in range(60)}
    for n in range(200):
        await registry.register(a_registration(instance_id=str(n), metadata=metadata))
    async with Wire(http_server) as wire:
        await wire.send(b"GET /services/users?limit=200 HTTP/1.1\r\nHost: h\r\n\r\n")
        while not len(under_way):
            await asyncio.sleep(0)
    await under_way.wait_until_none()


async def test_the_absolute_form_is_taken_too(http_server: Served) -> None:
    async with Wire(http_server) as wire:
        await wire.send(b"GET http://h:1/livez HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await wire.answer()).body == b"ok\n"
        await wire.send(b"GET HTTP://h HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await wire.answer()).headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://h/services", b"Host: elsewhere.example", 200),
        (b"http://h?index=0", b"Host: elsewhere.example", 400),
        (b"http://elsewhere.example/services", b"Host: h", 421),
        (b"http:///services", b"Host: h", 421),
        (b"http://who@h/services", b"Host: h", 400),
        (b"http://h/services", b"Host: h\r\nHost: h", 400),
        (b"http://h/services", b"X: no host", 400),
    ],
)
async def test_the_host_in_the_absolute_form_counts_more_than_the_other(
    http_server: Served, target: bytes, host: bytes, status: int, expect_log: ExpectLog
) -> None:
    noted = expect_log("does not know that it is called") if status == 421 else contextlib.nullcontext()
    async with Wire(http_server) as wire:
        with noted:
            await wire.send(b"GET %b HTTP/1.1\r\n%b\r\n\r\n" % (target, host))
            assert (await wire.answer()).status == status
        assert await is_in_order(wire)


async def test_pipelined_requests_are_answered_in_order(http_server: Served, registry: Registry) -> None:
    await registry.register(a_registration())
    async with Wire(http_server) as wire:
        await wire.send(
            a_post(b"", path=b"/heartbeat/i1") + a_post(b"x" * 1001) + NEXT + a_post(b"", path=b"/heartbeat/i2")
        )
        assert [(await wire.answer()).status for _ in range(4)] == [200, 413, 200, 404]


async def test_http_1_0_is_answered_and_closed(http_server: Served) -> None:
    async with Wire(http_server) as wire:
        await wire.send(b"GET /livez HTTP/1.0\r\n\r\n")
        assert (await wire.rest()).endswith(b"\r\n\r\nok\n")


@pytest.mark.parametrize("limits", [Limits()])
async def test_a_mass_of_short_headers_is_refused(http_server: Served) -> None:
    async with Wire(http_server) as wire:
        for count, status in [(255, 200), (256, 431), (2000, 431), (1, 200)]:
            await wire.send(b"GET /livez HTTP/1.1\r\nHost: h\r\n" + b"a: b\r\n" * count + b"\r\n")
            answer = await wire.answer()
            assert answer.status == status
            if status == 431:
                assert b"more than 256 headers; send fewer" in answer.body
