"""Times as people write them in a URL."""

import pytest

from registryd.api.durations import parse_wait
from registryd.core.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("5", 5), ("1.5", 1.5), ("30s", 30), ("1m30s", 90), ("500ms", 0.5), ("10m", 600), ("1m500ms", 60.5),
        ("0h", 0), ("0.5m", 30), ("600", 600),
    ],
)  # fmt: skip
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert parse_wait(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "1x", "-1s", "1 s", "+1", "1e3", "٣s", "1s1", "10m1ms", "1h", "9" * 50, "1.", ".5", "nan"]
)
def test_what_is_no_time_up_to_ten_minutes_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="send up to 10m") as refused:
        parse_wait(text)

    assert refused.value.field == "wait"
