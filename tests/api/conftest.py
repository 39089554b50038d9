"""Everything here runs on each HTTP server that the daemon can have, and on each loop."""

import pytest


@pytest.fixture(params=["tornado", "front", "front on uvloop"])
def http_kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind
