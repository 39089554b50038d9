"""Lengths of time as people write them in a URL: `30s`, `1m30s`, `500ms`, or plain seconds."""

import re

from registryd.core.errors import InvalidInput

#: The longest that a reader may wait, in seconds.
LONGEST_WAIT = 600.0

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+|(\d{{1,9}}(?:\.\d{{1,9}})?)", re.ASCII)


def parse_wait(text: str) -> float:
    """Seconds. Raises InvalidInput for what is no length of time, or is longer than ten minutes."""
    whole = _WHOLE.fullmatch(text)
    if whole is None:
        raise _refusal(text)
    parts = _PART.findall(text) or [(text, "")]
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds > LONGEST_WAIT:
        raise _refusal(text)
    return seconds


def _refusal(text: str) -> InvalidInput:
    detail = f"wait {text[:64]!r} is not allowed; send up to 10m, like 30s, 1m30s, 500ms or plain seconds"
    return InvalidInput("wait", detail, "invalid_parameter")
