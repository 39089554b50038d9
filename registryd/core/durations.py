"""Lengths of time as people write them: `30s`, `1m30s`, `500ms`, or plain seconds."""

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+|(\d{{1,9}}(?:\.\d{{1,9}})?)", re.ASCII)


def parse_duration(text: str) -> float | None:
    """Seconds; None for what is no length of time."""
    if _WHOLE.fullmatch(text) is None:
        return None
    parts = _PART.findall(text) or [(text, "")]
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
