"""How long a reader may wait, as it says in a URL."""

from registryd.core.durations import parse_duration
from registryd.core.errors import InvalidInput

#: The longest that a reader may wait, in seconds.
LONGEST_WAIT = 600.0


def parse_wait(text: str) -> float:
    """Seconds. Raises InvalidInput for what is no length of time, or is longer than ten minutes."""
    seconds = parse_duration(text)
    if seconds is None or seconds > LONGEST_WAIT:
        detail = f"wait {text[:64]!r} is not allowed; send up to 10m, like 30s, 1m30s, 500ms or plain seconds"
        raise InvalidInput("wait", detail, "invalid_parameter")
    return seconds
