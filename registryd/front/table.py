"""The hot table: calls that are answered by a function with finished bytes."""

from asyncio import Future
from collections.abc import Callable, Sequence
from typing import NamedTuple

from registryd.front.exchange import Peer


class Told(NamedTuple):
    """What a hot call is told of the headers, the same object for the same header block."""

    user_agent: str
    authorization: str | None


#: Gets what follows the prefix in the request's target, the body, who asks and what the headers tell. Gives
#: back the whole answer, head and body, or what brings it later, and does not fail; or None, having changed nothing,
#: where the call is for its handler after all.
Answer = Callable[[bytes, bytes, Peer, Told], "bytes | Future[bytes] | None"]


#: The calls that are tried, in this order, each by the beginning of its request line: `GET /services/`. Each answers
#: requests in HTTP/1.1 on a connection that stays open, without a header that could change the answer.
HotTable = Sequence[tuple[bytes, Answer]]

#: Headers with which a request is for its handler.
COLD_HEADERS = frozenset(
    {b"if-none-match", b"expect", b"transfer-encoding", b"content-encoding", b"upgrade", b"origin"}
)
