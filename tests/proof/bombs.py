"""Requests that are to blow something up, as data: too much, too deep, or no text at all. Each with what may be
answered; and whatever that is, the registry goes on as if nothing had been.
"""

import gzip
from collections.abc import Iterator
from typing import NamedTuple

#: Not an answer, but a closed connection.
NONE = 0


class Bomb(NamedTuple):
    """What is sent, and the statuses of which one is right."""

    name: str
    data: bytes
    statuses: set[int]


def _request(line: str, *headers: bytes, body: bytes = b"") -> bytes:
    length = [b"Content-Length: %d" % len(body)] if body else []
    return b"\r\n".join([f"{line} HTTP/1.1".encode(), b"Host: localhost", *headers, *length, b"", body])


def _post(body: bytes, *headers: bytes, path: str = "/register") -> bytes:
    return _request(f"POST {path}", *headers, body=body)


def _registration(**fields: bytes) -> bytes:
    given = {"service_name": b'"users"', "base_url": b'"http://h"'} | fields
    return b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), value) for name, value in given.items())


def _chunked(chunks: bytes, *headers: bytes) -> bytes:
    return _request("POST /register", b"Transfer-Encoding: chunked", *headers) + chunks


def heads(size: int) -> Iterator[Bomb]:
    """Header blocks, request lines and framing, some of `size` bytes and more."""
    get = "GET /services/users"
    yield Bomb("one header of many bytes", _request(get, b"X: " + b"x" * size), {431, NONE})
    yield Bomb("many headers", _request(get, *[b"X%d: x" % n for n in range(size // 8)]), {431, NONE})
    yield Bomb("a header block without an end", _request(get)[:-2] + b"X: x\r\n" * (size // 6), {431, NONE})
    yield Bomb("the same header again and again", _request(get, *[b"Accept: x"] * (size // 12)), {431, NONE})
    yield Bomb("a name of many bytes", _request(get, b"x" * size + b": x"), {400, 431, NONE})
    yield Bomb("a URL of many bytes", _request("GET /services/" + "x" * size), {414, 431, NONE})
    yield Bomb("a method of many bytes", b"G" * size, {400, 501, NONE})
    yield Bomb("a request line without an end", b"GET /" + b"a" * size, {400, 414, 431, NONE})
    yield Bomb("many parameters", _request(get + "?" + "tag=x&" * (size // 6)), {400, 414, 431, NONE})
    yield Bomb("chunks of a byte", _chunked(b"1\r\n \r\n" * (size // 6) + b"0\r\n\r\n"), {400, 413, NONE})
    yield Bomb("an extension without an end", _chunked(b"1;" + b"x" * size), {400, 413, NONE})
    yield Bomb(
        "trailers without an end", _chunked(b"2\r\n{}\r\n0\r\n" + b"X: x\r\n" * (size // 6)), {400, 413, 431, NONE}
    )
    yield Bomb("a chunk of 2^64 bytes", _chunked(b"10000000000000000\r\n{}"), {400, 413, NONE})
    yield Bomb("a length of many digits", _request("POST /register", b"Content-Length: " + b"9" * 60), {400, 413, NONE})


def bodies(size: int) -> Iterator[Bomb]:
    """JSON that is large, deep, or none; and what is compressed."""
    wide = b"[" + b"1," * (size // 2) + b"1]"
    yield Bomb("a body over the limit", _post(b" " * size), {400, 413, NONE})
    yield Bomb("a compressed body", _post(gzip.compress(wide), b"Content-Encoding: gzip"), {415})
    yield Bomb("a compressed body, chunked", _chunked(b"0\r\n\r\n", b"Content-Encoding: br"), {415})
    yield Bomb("arrays, deep", _post(b"[" * 100_000), {400})
    yield Bomb("objects, deep", _post(b'{"a":' * 20_000), {400})
    yield Bomb("arrays, deep, in a field", _post(_registration(metadata=b'{"a":' + b"[" * 50_000)), {400})
    yield Bomb("an integer of many digits", _post(_registration(ttl=b"1" + b"0" * 5_000)), {400})
    yield Bomb("a number beyond all", _post(_registration(ttl=b"1e999999")), {400})
    yield Bomb("not a number", _post(_registration(ttl=b"NaN")), {400})
    yield Bomb("infinity", _post(_registration(weight=b"Infinity")), {400})
    yield Bomb("a float for an integer", _post(_registration(weight=b"1.5")), {400})
    yield Bomb("the same key twice", _post(_registration()[:-1] + b',"base_url":"no"}'), {400})
    yield Bomb("a key of many bytes", _post(b'{"%b":1}' % (b"k" * 100_000)), {400})
    yield Bomb("many keys", _post(b"{" + b",".join(b'"%d":1' % n for n in range(20_000)) + b"}"), {400})
    yield Bomb("many ids", _post(b'{"instance_ids":[' + b'"",' * 20_000 + b'""]}', path="/heartbeats"), {400})


#: UTF-8 that is none, or tells less than it seems to: overlong, half of a pair, cut off, a mark of byte order, NUL.
ODD_TEXTS = {
    "NUL": b"\x00",
    "an overlong slash": b"\xc0\xaf",
    "an overlong NUL": b"\xe0\x80\x80",
    "half of a pair": b"\xed\xa0\x80",
    "text that is cut off": b"\xe2\x82",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "bytes that never occur": b"\xfe\xff",
}


def texts() -> Iterator[Bomb]:
    """Bytes that are no text, in each place where text can be."""
    for name, odd in ODD_TEXTS.items():
        quoted = "".join(f"%{byte:02x}" for byte in odd)
        yield Bomb(f"{name} in a path", _request(f"GET /services/a{quoted}"), {400})
        yield Bomb(f"{name} in an id", _request(f"POST /heartbeat/a{quoted}"), {400, 404})
        yield Bomb(f"{name} in a query", _request(f"GET /services/users?zone={quoted}&x"), {400})
        yield Bomb(
            f"{name} in a path, as it is", b"GET /a" + odd + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 404, NONE}
        )
        # RFC 9110, 5.5 allows bytes beyond ASCII there; nobody takes them for text.
        yield Bomb(f"{name} in a header", _request("GET /livez", b"User-Agent: a" + odd), {200, 400, NONE})
        yield Bomb(f"{name} in JSON", _post(_registration(zone=b'"a%b"' % odd)), {400})
        yield Bomb(f"{name} as a name", _post(_registration(service_name=b'"a%b"' % odd)), {400})
    yield Bomb("a mark of byte order before JSON", _post(b"\xef\xbb\xbf" + _registration()), {400})
    yield Bomb("half of a pair, escaped", _post(_registration(zone=b'"\\ud800"')), {400})
    yield Bomb("NUL, escaped, as a name", _post(_registration(service_name=b'"a\\u0000"')), {400})


def all_bombs(size: int) -> Iterator[Bomb]:
    """All of them; those that are large have so many bytes."""
    yield from heads(size)
    yield from bodies(size)
    yield from texts()
