"""Requests that two servers could read in two ways, each with a request hidden in it, as data.

Each comes from a rule of RFC 9112 (or 9110, named so) or from a class of attacks that is known by a name: CL.TE and
TE.CL, where one server goes by Content-Length and the other by Transfer-Encoding; TE.TE, where one of them does not see
a Transfer-Encoding that is written oddly; TERM.EXT and EXT.TERM, where they do not agree where the
extension of a chunk ends.
"""

from typing import NamedTuple

#: What can become of one of them. Nothing but a refusal, or nothing at all, and the connection is closed; an answer,
#: and it is closed; what is hidden is (a part of) the body; or it is the next request.
REFUSED, CLOSED, BODY, REQUEST = "refused", "closed", "body", "request"

#: Who is registered if it is heard what is hidden.
SMUGGLED = "smuggled"
_SMUGGLED_BODY = b'{"service_name":"smuggled","base_url":"http://h"}'
HIDDEN = b"POST /register HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(_SMUGGLED_BODY) + _SMUGGLED_BODY
LENGTH = b"Content-Length: %d" % len(HIDDEN)
CHUNKED = b"Transfer-Encoding: chunked"
END = b"0\r\n\r\n"
#: The same in one chunk, after which there is no other.
AS_CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
#: The hidden one is behind the last chunk, and within a length.
BEHIND_CHUNKS = END + HIDDEN
BOTH_LENGTH = b"Content-Length: %d" % len(BEHIND_CHUNKS)


class Item(NamedTuple):
    """One of them; `source` says whose rule or which class of attacks it is, `readings` which of the above is right."""

    source: str
    data: bytes
    readings: frozenset[str]


def _item(source: str, data: bytes, *readings: str) -> Item:
    return Item(source, data, frozenset(readings or [REFUSED]))


def a(*headers: bytes, body: bytes = b"", line: bytes = b"POST /heartbeat/users-1 HTTP/1.1") -> bytes:
    """A request, which has this as its body in one reading."""
    return b"\r\n".join([line, b"Host: h", *headers, b"", body])


def odd(name_and_value: bytes) -> Item:
    """A Transfer-Encoding that is written oddly, beside a length: whoever does not see it takes what is hidden for the
    body, whoever does for the next request."""
    return _item("TE.TE; 6.1", a(BOTH_LENGTH, name_and_value, body=BEHIND_CHUNKS))


def alone(name_and_value: bytes, *readings: str) -> Item:
    """The same without a length: whoever does not see it takes the first chunk for a request."""
    return _item("TE.TE; 6.1", a(name_and_value, body=BEHIND_CHUNKS), *readings)


def length(text: bytes, *readings: str) -> Item:
    """A length that is written oddly."""
    return _item("6.2", a(b"Content-Length: " + text, body=HIDDEN), *readings)


def chunk(size_line: bytes, after: bytes = b"\r\n", *readings: str) -> Item:
    """A chunk whose first line, line break included, and end are written oddly."""
    return _item("7.1", a(CHUNKED, body=size_line + HIDDEN + after + END), *readings)


def trailer(name_and_value: bytes) -> Item:
    """A trailer that would change the framing, if it counted: what is hidden is behind all of it."""
    return _item("6.5.1 of 9110", a(CHUNKED, body=b"0\r\n" + name_and_value + b"\r\n\r\n" + HIDDEN), REFUSED, REQUEST)


def line(text: bytes, *readings: str) -> Item:
    """A request line that is written oddly."""
    return _item("3", a(LENGTH, body=HIDDEN, line=text), *readings)


_HEX = b"%x" % len(HIDDEN)
_SIZE = b"%d" % len(HIDDEN)

#: What is in order, so that it is known that the others would be noticed.
IN_ORDER = {
    "a length": _item("6.2", a(LENGTH, body=HIDDEN), BODY),
    "a length with zeros": length(b"000" + _SIZE, BODY),
    "white space around the length": length(b" \t" + _SIZE + b"\t ", BODY),
    "chunks": _item("7.1", a(CHUNKED, body=AS_CHUNK), BODY),
    "chunks in capitals": _item("7", a(b"TRANSFER-ENCODING: CHUNKED", body=AS_CHUNK), BODY),
    "chunks without a space": _item("5.1", a(b"Transfer-Encoding:chunked", body=AS_CHUNK), BODY),
    "chunks after a tab": _item("5.1", a(b"Transfer-Encoding:\tchunked", body=AS_CHUNK), BODY),
    "chunks before a space": _item("5.1", a(b"Transfer-Encoding: chunked ", body=AS_CHUNK), BODY, REFUSED),
    "neither": _item("6.3", a(body=HIDDEN), REQUEST),
    "no length at all": _item("6.3", a(b"Content-Length: 0", body=HIDDEN), REQUEST),
    "behind chunks": _item("7.1", a(CHUNKED, body=BEHIND_CHUNKS), REQUEST),
    "a look-up with a body": _item("9.3.1 of 9110", a(LENGTH, body=HIDDEN, line=b"GET /services/users HTTP/1.1"), BODY),
    "a look-up with chunks": _item("9.3.1 of 9110", a(CHUNKED, body=AS_CHUNK, line=b"GET /services HTTP/1.1"), BODY),
    "HEAD with a body": _item("9.3.2 of 9110", a(LENGTH, body=HIDDEN, line=b"HEAD /services/users HTTP/1.1"), BODY),
    "OPTIONS with a body": _item("9.3.7 of 9110", a(LENGTH, body=HIDDEN, line=b"OPTIONS /register HTTP/1.1"), BODY),
    "a length that Connection names": _item(
        "7.6.1 of 9110", a(b"Connection: Content-Length", LENGTH, body=HIDDEN), BODY
    ),
    "underscores": _item("CGI", a(b"Transfer_Encoding: chunked", b"Content_Length: 0", LENGTH, body=HIDDEN), BODY),
    "said to close": _item("9.6", a(b"Connection: close", body=HIDDEN), CLOSED),
    "HTTP/1.0": _item("9.3", a(body=HIDDEN, line=b"POST /heartbeat/users-1 HTTP/1.0"), CLOSED),
    "h2c with a length": _item("h2c", a(b"Connection: Upgrade", b"Upgrade: h2c", LENGTH, body=HIDDEN), BODY),
    "h2c with chunks": _item("h2c", a(b"Connection: Upgrade", b"Upgrade: h2c", CHUNKED, body=AS_CHUNK), BODY),
    "h2c without a body": _item("h2c", a(b"Connection: Upgrade", b"Upgrade: h2c", body=HIDDEN), REQUEST),
    "a web socket": _item("7.8 of 9110", a(b"Connection: upgrade", b"Upgrade: websocket", body=HIDDEN), REQUEST),
    "an expectation": _item("10.1.1 of 9110", a(b"Expect: 100-continue", LENGTH, body=HIDDEN), BODY),
    "an odd expectation": _item("10.1.1 of 9110", a(b"Expect: 100-continue, x", LENGTH, body=HIDDEN), BODY, REFUSED),
    "two expectations": _item("10.1.1 of 9110", a(*[b"Expect: 100-continue"] * 2, LENGTH, body=HIDDEN), BODY, REFUSED),
    "line breaks in the path": line(b"POST /heartbeat/x%0d%0aContent-Length:0%0d%0a%0d%0a HTTP/1.1", BODY),
    "empty lines first": _item("2.2", b"\r\n\r\n" + a(LENGTH, body=HIDDEN), BODY, REFUSED),
}

AMBIGUOUS = {
    # One goes by Content-Length, the other by Transfer-Encoding.
    "CL.TE": _item("CL.TE; 6.1", a(BOTH_LENGTH, CHUNKED, body=BEHIND_CHUNKS)),
    "TE and CL": _item("CL.TE; 6.1", a(CHUNKED, BOTH_LENGTH, body=BEHIND_CHUNKS)),
    "TE.CL": _item("TE.CL; 6.1", a(b"Content-Length: 4", CHUNKED, body=AS_CHUNK)),
    "CL.0 and TE": _item("CL.0", a(b"Content-Length: 0", CHUNKED, body=AS_CHUNK)),
    "CL.TE in a look-up": _item(
        "CL.TE; 6.1", a(BOTH_LENGTH, CHUNKED, body=BEHIND_CHUNKS, line=b"GET /services/users HTTP/1.1")
    ),
    "CL.TE in HTTP/1.0": _item(
        "6.1", a(b"Connection: keep-alive", BOTH_LENGTH, CHUNKED, body=BEHIND_CHUNKS, line=b"POST /livez HTTP/1.0")
    ),
    "CL.TE in an upgrade": _item(
        "h2c", a(b"Connection: upgrade", b"Upgrade: h2c", BOTH_LENGTH, CHUNKED, body=BEHIND_CHUNKS)
    ),
    # One does not see the Transfer-Encoding.
    "TE, space before the colon": odd(b"Transfer-Encoding : chunked"),
    "TE, tab before the colon": odd(b"Transfer-Encoding\t: chunked"),
    "TE, space before the name": odd(b" Transfer-Encoding: chunked"),
    "TE, vertical tab": odd(b"Transfer-Encoding: \x0bchunked"),
    "TE, form feed": odd(b"Transfer-Encoding: \x0cchunked"),
    "TE, NUL behind": odd(b"Transfer-Encoding: chunked\x00"),
    "TE, NUL in the name": odd(b"Transfer-Encoding\x00: chunked"),
    "TE, no-break space": odd(b"Transfer-Encoding: \xa0chunked"),
    "TE, next line": odd(b"Transfer-Encoding: chunked\x85"),
    "TE, quoted": odd(b'Transfer-Encoding: "chunked"'),
    "TE, identity behind": odd(b"Transfer-Encoding: chunked, identity"),
    "TE, identity before": odd(b"Transfer-Encoding: identity, chunked"),
    "TE, x before": odd(b"Transfer-Encoding: xchunked"),
    "TE, x behind": odd(b"Transfer-Encoding: chunkedx"),
    "TE, parameter": odd(b"Transfer-Encoding: chunked;q=1"),
    "TE, folded": odd(b"Transfer-Encoding:\r\n chunked"),
    "TE, folded behind": odd(b"Transfer-Encoding: chunked\r\n , identity"),
    "TE, twice": odd(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    "TE, and identity": odd(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
    "TE, after identity": odd(b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
    "TE, bare LF before": odd(b"X: y\nTransfer-Encoding: chunked"),
    "TE, bare CR before": odd(b"X: y\rTransfer-Encoding: chunked"),
    "TE, empty": odd(b"Transfer-Encoding:"),
    "TE, empty elements": odd(b"Transfer-Encoding: ,chunked,"),
    "TE alone, gzip": alone(b"Transfer-Encoding: gzip"),
    "TE alone, gzip before": alone(b"Transfer-Encoding: gzip, chunked"),
    "TE alone, chunked before gzip": alone(b"Transfer-Encoding: chunked, gzip"),
    "TE alone, twice": alone(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    "TE alone, twice in one": alone(b"Transfer-Encoding: chunked, chunked"),
    "TE alone, identity": alone(b"Transfer-Encoding: identity"),
    "TE alone, x before": alone(b"Transfer-Encoding: xchunked"),
    "TE alone, vertical tab": alone(b"Transfer-Encoding: \x0bchunked"),
    "TE alone, folded": alone(b"Transfer-Encoding:\r\n chunked"),
    "TE alone, empty": alone(b"Transfer-Encoding:"),
    "TE alone, empty elements": alone(b"Transfer-Encoding: ,chunked,", REFUSED, REQUEST),
    "TE in HTTP/1.0": _item(
        "6.1", a(b"Connection: keep-alive", CHUNKED, body=AS_CHUNK, line=b"POST /livez HTTP/1.0")
    ),
    # Which length?
    "two lengths": _item("CL.CL; 6.3", a(LENGTH, b"Content-Length: 0", body=HIDDEN)),
    "two lengths, the other way": _item("CL.CL; 6.3", a(b"Content-Length: 0", LENGTH, body=HIDDEN)),
    "two lengths in other letters": _item("CL.CL; 6.3", a(b"content-length: 0", LENGTH, body=HIDDEN)),
    "the same length twice": _item("6.3", a(LENGTH, LENGTH, body=HIDDEN), REFUSED, BODY),
    "a list of lengths": length(_SIZE + b", 0"),
    "a list of the same length": length(_SIZE + b", " + _SIZE, REFUSED, BODY),
    "length, plus": length(b"+" + _SIZE),
    "length, minus": length(b"-1"),
    "length, hexadecimal": length(b"0x" + _HEX),
    "length, underscore": length(b"1_0"),
    "length, letters": length(b"x"),
    "length, space within": length(b"1 " + _SIZE),
    "length, fraction": length(_SIZE + b".0"),
    "length, exponent": length(b"1e1"),
    "length, empty": length(b""),
    "length, vertical tab": length(b"\x0b" + _SIZE),
    "length, NUL": length(_SIZE + b"\x00"),
    "length, other digits": length("１".encode() + _SIZE),
    "length, superscript": length(b"\xb2"),
    "length, over 64 bits": length(b"%d" % (2**64 + len(HIDDEN))),
    "length, far over 64 bits": length(b"9" * 400),
    "length, folded": _item("5.2", a(b"Content-Length:\r\n " + _SIZE, body=HIDDEN)),
    "length, folded away": _item("5.2", a(b"X: y\r\n " + LENGTH, body=HIDDEN)),
    "length, space before the colon": _item("5.1", a(b"Content-Length : " + _SIZE, body=HIDDEN)),
    "length, NUL in the name": _item("5.1", a(b"Content-Length\x00: " + _SIZE, body=HIDDEN)),
    "length, bare CR before": _item("2.2", a(b"X: y\rContent-Length: 0", LENGTH, body=HIDDEN)),
    "length, space before the first header": _item(
        "2.2", a(LENGTH, body=HIDDEN).replace(b"\r\nHost", b"\r\n Host", 1)
    ),
    # Where does a line end?
    "bare LF in all lines": _item("2.2", a(LENGTH).replace(b"\r\n", b"\n") + HIDDEN, REFUSED, BODY),
    "bare LF at the end": _item("2.2", a(LENGTH)[:-2] + b"\n" + HIDDEN, REFUSED, BODY),
    "bare CR at the end": _item("2.2", a(LENGTH)[:-2] + b"\r" + HIDDEN),
    "two CRs": _item("2.2", a(LENGTH).replace(b"\r\n", b"\r\r\n") + HIDDEN),
    "bare CR in all lines": _item("2.2", a(LENGTH).replace(b"\r\n", b"\r") + b"\r\n\r\n" + HIDDEN),
    "a bare CR in a value": _item("2.2", a(b"X: a\rb", body=HIDDEN)),
    "a folded value": _item("5.2", a(b"X: a\r\n folded", body=HIDDEN)),
    "no colon": _item("5", a(b"no colon", body=HIDDEN)),
    "no name": _item("5", a(b": no name", body=HIDDEN)),
    "space before a colon": _item("5.1", a(b"X : y", body=HIDDEN)),
    "a NUL in a value": _item("5.5 of 9110", a(b"X: a\x00b", body=HIDDEN)),
    "a vertical tab in a value": _item("5.5 of 9110", a(b"X: a\x0bb", body=HIDDEN)),
    # Where does a chunk end?
    "chunk, 0x": chunk(b"0x" + _HEX + b"\r\n"),
    "chunk, plus": chunk(b"+" + _HEX + b"\r\n"),
    "chunk, minus": chunk(b"-1\r\n"),
    "chunk, underscore": chunk(b"0_" + _HEX + b"\r\n"),
    "chunk, no digits": chunk(b"zz\r\n"),
    "chunk, empty size": chunk(b"\r\n"),
    "chunk, only an extension": chunk(b";a=b\r\n"),
    "chunk, space before": chunk(b" " + _HEX + b"\r\n"),
    "chunk, space behind": chunk(_HEX + b" \r\n", b"\r\n", REFUSED, BODY),
    "chunk, tab behind": chunk(_HEX + b"\t\r\n", b"\r\n", REFUSED, BODY),
    "chunk, NUL behind": chunk(_HEX + b"\x00\r\n"),
    "chunk, over 64 bits": chunk(b"%x\r\n" % (2**64 + len(HIDDEN))),
    "chunk, far over 64 bits": chunk(b"f" * 40 + b"\r\n"),
    "chunk, zeros": chunk(b"0" * 40 + _HEX + b"\r\n", b"\r\n", REFUSED, BODY),
    "chunk, other digits": chunk("１".encode() + _HEX + b"\r\n"),
    "chunk, too long": chunk(_HEX + b"\r\n", b"x\r\n"),
    "chunk, no end": chunk(_HEX + b"\r\n", b""),
    "chunk, ended by LF": chunk(_HEX + b"\r\n", b"\n"),
    "chunk, ended by CR": chunk(_HEX + b"\r\n", b"\r"),
    "chunk, ended by two others": chunk(_HEX + b"\r\n", b"XX"),
    "chunk, line ended by LF": chunk(_HEX + b"\n"),
    "chunk, line ended by CR": chunk(_HEX + b"\r"),
    "chunk, line ended by CR and x": chunk(_HEX + b"\rx\n"),
    "chunk, extension": chunk(_HEX + b";a=b\r\n", b"\r\n", REFUSED, BODY),
    "chunk, extension in quotes": chunk(_HEX + b';a="b;c"\r\n', b"\r\n", REFUSED, BODY),
    "chunk, line break in quotes": chunk(_HEX + b';a="\r\n"\r\n'),
    "chunk, LF in an extension": _item("TERM.EXT", a(CHUNKED, body=b"1;\nx\r\n%b\r\n%b" % (_HEX, HIDDEN) + END)),
    "chunk, LF in a value": _item("EXT.TERM", a(CHUNKED, body=b"1;a=\nx\r\n" + END + HIDDEN)),
    "chunk, LF in quotes": _item("EXT.TERM", a(CHUNKED, body=b'1;a="\n"\r\nx\r\n' + END + HIDDEN)),
    "chunk, CR in an extension": _item("EXT.TERM", a(CHUNKED, body=b"1;a\rb\r\nx\r\n" + END + HIDDEN)),
    "chunk, NUL in an extension": _item("EXT.TERM", a(CHUNKED, body=b"1;a\x00b\r\nx\r\n" + END + HIDDEN)),
    "last chunk ended by LFs": _item("7.1", a(CHUNKED, body=b"0\n\n" + HIDDEN)),
    "last chunk ended by CRLF and LF": _item("7.1", a(CHUNKED, body=b"0\r\n\n" + HIDDEN)),
    "last chunk ended by CR and x": _item("7.1", a(CHUNKED, body=b"0\r\n\rx" + HIDDEN)),
    "last chunk of two zeros": _item("7.1", a(CHUNKED, body=b"00\r\n\r\n" + HIDDEN), REFUSED, REQUEST),
    # What is behind the chunks changes nothing.
    "trailer": trailer(b"T: v"),
    "trailer, length": trailer(LENGTH),
    "trailer, chunks": trailer(CHUNKED),
    "trailer, host": trailer(b"Host: elsewhere.example"),
    "trailer, keep-alive": trailer(b"Connection: keep-alive"),
    "trailer, upgrade": trailer(b"Connection: upgrade\r\nUpgrade: h2c"),
    "trailer, folded": _item("5.2", a(CHUNKED, body=b"0\r\nT: v\r\n w\r\n\r\n" + HIDDEN)),
    "trailer, no colon": _item("5", a(CHUNKED, body=b"0\r\nPOST /register HTTP/1.1\r\n\r\n" + HIDDEN)),
    "trailer, bare LF": _item("2.2", a(CHUNKED, body=b"0\r\nT: v\n\n" + HIDDEN)),
    # What is asked for, and of whom?
    "two spaces": line(b"POST  /heartbeat/users-1 HTTP/1.1", REFUSED, BODY),
    "many spaces": line(b"POST      /heartbeat/users-1     HTTP/1.1", REFUSED, BODY),
    "tabs": line(b"POST\t/heartbeat/users-1\tHTTP/1.1"),
    "a space behind": line(b"POST /heartbeat/users-1 HTTP/1.1 "),
    "a space before": line(b" POST /heartbeat/users-1 HTTP/1.1"),
    "a space within": line(b"POST /heartbeat/users-1 x HTTP/1.1"),
    "two versions": line(b"POST /heartbeat/users-1 HTTP/1.1 HTTP/1.1"),
    "a NUL behind": line(b"POST /heartbeat/users-1 HTTP/1.1\x00"),
    "a NUL in the target": line(b"POST /heartbeat/\x00 HTTP/1.1"),
    "a bare CR in the target": line(b"POST /heartbeat/\rusers-1 HTTP/1.1"),
    "small letters": line(b"POST /heartbeat/users-1 http/1.1"),
    "a small method": line(b"post /heartbeat/users-1 HTTP/1.1", REFUSED, BODY),
    "HTTP/1.10": line(b"POST /heartbeat/users-1 HTTP/1.10"),
    "HTTP/01.1": line(b"POST /heartbeat/users-1 HTTP/01.1"),
    "HTTP/9.9": line(b"POST /heartbeat/users-1 HTTP/9.9"),
    "HTTP/2.0": line(b"POST /heartbeat/users-1 HTTP/2.0"),
    "HTTP/0.9": _item("HTTP/0.9", b"GET /livez\r\n\r\n" + HIDDEN),
    "HTTP/0.9 in one line": _item("HTTP/0.9", b"GET /livez\r\n" + HIDDEN),
    "FTP/1.1": line(b"POST /heartbeat/users-1 FTP/1.1"),
    "the preface of HTTP/2": _item("h2c", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN),
    "TLS": _item("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n" + HIDDEN),
    "nonsense": _item("3", b"nonsense\r\n\r\n" + HIDDEN),
    "a method alone": _item("3", b"GET\r\n\r\n" + HIDDEN),
    "no text": _item("3", b"\x00\x01\x02\r\n\r\n" + HIDDEN),
    "CONNECT": _item("9.3.6 of 9110", a(LENGTH, body=HIDDEN, line=b"CONNECT h:80 HTTP/1.1"), REFUSED, BODY),
    "two hosts": _item("3.2", a(b"Host: g", LENGTH, body=HIDDEN), REFUSED, BODY),
    "a space before the colon of the host": _item("5.1", a(b"Host : g", LENGTH, body=HIDDEN)),
    "another host in the target": line(b"POST http://g/heartbeat/users-1 HTTP/1.1", BODY),
    "an upgrade in HTTP/1.0": _item(
        "7.8 of 9110",
        a(b"Connection: upgrade", b"Upgrade: h2c", LENGTH, body=HIDDEN, line=b"POST /livez HTTP/1.0"),
        REFUSED, CLOSED,
    ),
    "an expectation in HTTP/1.0": _item(
        "10.1.1 of 9110", a(b"Expect: 100-continue", LENGTH, body=HIDDEN, line=b"POST /livez HTTP/1.0"),
        REFUSED, CLOSED,
    ),
}  # fmt: skip
