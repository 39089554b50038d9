"""`GET /metrics`: how the registry does, for Prometheus and whoever reads its format."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from registryd.api.base import ANSWERED, Handler, call
from registryd.api.context import Context

if TYPE_CHECKING:
    from registryd.api.families import Exposition

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def prefers_openmetrics(accept: str) -> bool:
    """Whether someone who accepts these media types (RFC 9110, 12.5.1) wants OpenMetrics rather than plain text."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((_number(piece[2:]) for piece in parameters if piece.startswith("q=")), 1.0)
        weights[media_type] = max(weight, weights.get(media_type, 0.0))
    plain = max(weights.get("text/plain", 0.0), weights.get("text/*", 0.0))
    return weights.get("application/openmetrics-text", 0.0) > 0 and (weights["application/openmetrics-text"] >= plain)


def _number(text: str) -> float:
    """A weight; what is none counts for nothing."""
    return float(text) if text.replace(".", "", 1).isdecimal() and text.isascii() else 0.0


class MetricsHandler(Handler):
    """`GET /metrics`"""

    def initialize(self, context: Context, exposition: "Callable[[], Exposition]") -> None:  # type: ignore[override]
        super().initialize(context)
        self._exposition = exposition

    @call(media_type="text/plain", needs=("read",))
    def get(self) -> object:
        """Tells how the registry does, in numbers: as plain text, or as OpenMetrics for who prefers that."""
        self.take_index(self.registry.index())
        exposition = self._exposition()
        is_plain = not prefers_openmetrics(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", PLAIN if is_plain else OPENMETRICS)
        self.set_header("Vary", "Accept")
        self.write(exposition.plain() if is_plain else exposition.openmetrics())
        return ANSWERED

    head = get


def routes(context: Context) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """The path of this face, for an Application."""

    @functools.cache
    def exposition() -> "Exposition":
        from registryd.api.families import Exposition  # which takes 25 ms, and nobody may ever ask

        return Exposition(context)

    return [(r"/metrics/?", MetricsHandler, {"context": context, "exposition": exposition})]
