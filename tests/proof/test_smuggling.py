"""A request hidden in another is heard by nobody, and where two servers could disagree, the connection ends."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop
from proof.smuggling import AMBIGUOUS, BODY, CLOSED, IN_ORDER, REFUSED, REQUEST, SMUGGLED, Item
from raw import answers_in
from support import a_registration
from world import World, converse, world

LOOKUP = b"GET /services/users HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
LOOPS = {
    "tornado": asyncio.new_event_loop,
    "front": asyncio.new_event_loop,
    "front on uvloop": uvloop.new_event_loop,
}
PARTS = [IN_ORDER, AMBIGUOUS]
WAYS: dict[str, Callable[[bytes], list[bytes]]] = {
    "at once": lambda data: [data],
    "in pieces of three": lambda data: [data[n : n + 3] for n in range(0, len(data), 3)],
}


def is_smuggled(there: World) -> bool:
    return any(change.instance.service_name == SMUGGLED for change in there.store.changes)


def reading(there: World, heard: bytes) -> str:
    """How a server has read what was sent, as far as it lets us know."""
    answers, rest = answers_in(heard)
    assert not rest, "all answers are whole"
    (first, *others) = [answer.status for answer in answers if answer.status != 100]
    assert first == 200, "what came before is answered"
    if is_smuggled(there):
        assert others[1:] == [200, 200], "it is answered, and so is the last one"
        return REQUEST
    if len(others) == 2:
        assert others[1] == 200, "the last one is heard"
        return BODY
    assert len(others) <= 1, "there is one reading"
    return CLOSED if others == [200] else REFUSED


async def readings(kind: str, cut: Callable[[bytes], list[bytes]], item: Item) -> set[str]:
    """How a server may have read an item."""
    async with world(kind) as there:
        await there.registry.register(a_registration(instance_id="users-1"))
        await converse(there, [LOOKUP, LAST])  # so that the header blocks are known
        try:
            heard = await converse(there, [LOOKUP, *cut(item.data + LAST)])
        except ConnectionError:  # closed while we went on to send, which takes back what was said
            return {REQUEST} if is_smuggled(there) else {CLOSED, REFUSED}
        return {reading(there, heard)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("part", PARTS, ids=["in order", "ambiguous"])
def test_what_is_hidden_in_a_request_is_heard_in_one_way_only(part: dict[str, Item], kind: str, way: str) -> None:
    async def story() -> list[set[str]]:
        each = [readings(kind.split()[0], WAYS[way], item) for item in part.values()]
        return await asyncio.wait_for(asyncio.gather(*each), 15)

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        found = dict(zip(part, runner.run(story()), strict=True))
    wrong = {name: found[name] for name in part if not found[name] & part[name].readings}
    assert wrong == {}
