"""Random bytes and mutated requests: the front never raises, hangs or grows, and afterwards it serves as before."""

import asyncio
import gc

from hypothesis import given, settings
from hypothesis import strategies as st
from shaking import BITS, SEEDS, shaken
from support import a_registration
from world import connect, until, world


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Some requests, with pieces taken out, put in twice, or replaced."""
    data = b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=4)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        new = draw(st.one_of(st.sampled_from(BITS), st.binary(max_size=5), st.just(data[start:end] * 2)))
        data = data[:start] + new + data[end:]
    return data


HOW = {
    "cuts": st.lists(st.integers(0, 400), max_size=6),
    "room": st.sampled_from([2**30, 0, 200]),
    "how_it_ends": st.sampled_from(["half open", "gone"]),
}


@settings(max_examples=300)
@given(data=st.binary(max_size=300), **HOW)
def test_random_bytes(data: bytes, cuts: list[int], room: int, how_it_ends: str) -> None:
    shaken(data, cuts, room, how_it_ends)


@settings(max_examples=600)
@given(data=mutated(), **HOW)
def test_mutated_requests(data: bytes, cuts: list[int], room: int, how_it_ends: str) -> None:
    shaken(data, cuts, room, how_it_ends)


def test_nothing_of_a_connection_is_left_for_the_garbage_collector() -> None:
    async def story() -> None:
        async with world("front") as there:
            await there.registry.register(a_registration())
            for data in SEEDS:
                transport = connect(there)
                transport.protocol.data_received(data)
                for _ in range(20):
                    await asyncio.sleep(0)
                transport.lose()
                del transport.protocol  # as a real transport does
            await until(lambda: not len(there.under_way), "nothing is under way")
            del transport
            left = [one for one in gc.get_objects() if type(one).__name__ in ("Connection", "HttpRequestParser")]
            assert [one for one in left if type(one).__module__.startswith(("registryd.front", "httptools"))] == []

    gc.collect()
    gc.disable()
    try:
        asyncio.run(story())
    finally:
        gc.enable()
