"""The way by which a reload is asked for, and its outcome told: to root and our own user only."""

import asyncio
import os
import socket

import pytest
from conftest import ExpectLog

from registryd import control
from registryd.control import Control, Outcome, ask

GOOD = Outcome(True, ["reloaded: no setting has changed"])


async def ask_aside(seconds: float = 5.0) -> Outcome:
    return await asyncio.to_thread(ask, os.getpid(), seconds)


def test_the_outcome_is_told() -> None:
    async def story() -> None:
        outcomes = [GOOD, Outcome(False, ["one", "two"])]
        there = Control(lambda: outcomes.pop(0))
        await there.start()
        assert await ask_aside() == GOOD
        assert await ask_aside() == Outcome(False, ["one", "two"])
        there.stop()
        assert (await ask_aside()).lines[0].startswith(f"process {os.getpid()} is no registryd")

    asyncio.run(story())


def test_another_user_is_refused(monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog) -> None:
    async def story() -> None:
        there = Control(lambda: GOOD)
        await there.start()
        monkeypatch.setattr(control, "_who", lambda sock: (os.getpid(), 4242))
        with expect_log("a process of user 4242 asked for a reload"):
            outcome = await ask_aside()
        there.stop()
        assert outcome == Outcome(
            False, [f"process {os.getpid()} has refused; it takes this from root and from its own user"]
        )

    asyncio.run(story())


def test_a_daemon_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    async def story() -> None:
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(f"\0registryd-{os.getpid()}-control")

        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            loop.call_soon(asked.set)
            await reader.read()
            writer.close()

        async with await asyncio.start_unix_server(say_nothing, sock=sock):
            outcome = await ask_aside(0.05)
            await asked.wait()
        assert outcome.lines == [f"process {os.getpid()} has not answered within 0.05 s; its log may say more"]

    asyncio.run(story())


def test_a_name_that_is_taken_leaves_the_signal(expect_log: ExpectLog) -> None:
    async def story() -> None:
        first, second = Control(lambda: GOOD), Control(lambda: GOOD)
        await first.start()
        with expect_log("registryd --reload will not get through: Address already in use; kill -HUP does"):
            await second.start()
        second.stop()
        first.stop()

    asyncio.run(story())
