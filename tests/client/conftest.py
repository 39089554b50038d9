"""Fixtures of the client's tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from scripted import Answer, Asked, Scripted, StartScripted


@pytest.fixture
def start_scripted() -> Iterator[StartScripted]:
    with ExitStack() as stack:

        def start(answer: Callable[[Asked], Answer]) -> Scripted:
            scripted = Scripted(answer)
            stack.callback(scripted.close)
            return scripted

        yield start
