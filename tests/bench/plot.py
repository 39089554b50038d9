"""A plot of what load.py measured, as SVG written by hand: for each work the servers' throughput on the left and their
latency percentiles on the right. Knows nothing of how the figures came about.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

PERCENTILES = ("p50", "p90", "p99", "p99.9")
COLOURS = ("#1f5fbf", "#7fb0ea", "#2e8b57", "#6b7280", "#d9601a", "#e8a33d", "#7b4fb5", "#c2407e", "#8a6a4f")

WIDTH, MARGIN = 1180, 24
#: Where the bars begin, the room they have, and where the percentiles begin and end.
BARS, BARS_ROOM, POINTS, POINTS_END = 110, 400, 640, 1140
ROW, TITLE, GAP = 19, 34, 26


class Row(NamedTuple):
    """What a server did: requests per second, a mark behind that, and microseconds at each of PERCENTILES."""

    server: str
    rate: float
    mark: str
    latencies: Sequence[float]


def text(x: float, y: float, what: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(what)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def marker(x: float, y: float, percentile: int, colour: str) -> str:
    """A sign for each percentile: hollow, filled, a square, and a stroke for the last."""
    match percentile:
        case 0:
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#fff" stroke="{colour}" stroke-width="1.6"/>'
        case 1:
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
        case 2:
            return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
        case _:
            return line(x, y - 6, x, y + 6, colour, 2.5)


def duration(microseconds: float) -> str:
    """A decade of the axis, in its own unit."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{microseconds / size:g} {unit}"
    return f"{microseconds:g} µs"


class Decades:
    """The axis of the latencies: logarithmic, in whole decades of microseconds."""

    def __init__(self, values: Sequence[float]) -> None:
        self._first = math.floor(math.log10(max(1.0, min(values))))
        self._last = max(self._first + 1, math.ceil(math.log10(max(1.0, *values))))

    def x(self, microseconds: float) -> float:
        share = (math.log10(max(1.0, microseconds)) - self._first) / (self._last - self._first)
        return POINTS + share * (POINTS_END - POINTS)

    def grid(self, top: float, bottom: float) -> list[str]:
        drawn = []
        for decade in range(self._first, self._last + 1):
            x = self.x(10**decade)
            drawn += [
                line(x, top, x, bottom, "#d5d9e0"),
                text(x, bottom + 13, duration(10**decade), 'class="small" text-anchor="middle"'),
            ]
            if decade < self._last:
                drawn += [line(self.x(n * 10**decade), top, self.x(n * 10**decade), bottom, "#f0f2f5") for n in (2, 5)]
        return drawn


def block(top: float, title: str, rows: Sequence[Row], colours: Mapping[str, str], axis: Decades) -> list[str]:
    """One work: a bar and four points for each server."""
    first = top + TITLE
    bottom = first + ROW * len(rows)
    most = max(row.rate for row in rows)
    drawn = [text(MARGIN, top + 22, title, 'class="title"'), *axis.grid(first - 2, bottom)]
    for n, row in enumerate(rows):
        y, colour, length = first + ROW * n + ROW / 2, colours[row.server], max(1.0, row.rate / most * BARS_ROOM)
        xs = [axis.x(value) for value in row.latencies]
        drawn += [
            text(BARS - 8, y + 4, row.server, 'text-anchor="end"'),
            f'<rect x="{BARS}" y="{y - 7:.1f}" width="{length:.1f}" height="14" fill="{colour}"/>',
            text(BARS + length + 6, y + 4, f"{row.rate:,.0f}{row.mark}"),
            text(POINTS - 8, y + 4, row.server, 'text-anchor="end"'),
            line(xs[0], y, xs[-1], y, colour, 1.5),
            *(marker(x, y, percentile, colour) for percentile, x in enumerate(xs)),
        ]
    return [*drawn, line(BARS, first - 2, BARS, bottom, "#9aa1ac")]


def legend(top: float, titles: Mapping[str, str], colours: Mapping[str, str]) -> list[str]:
    """Which colour is which server, and which sign is which percentile."""
    drawn = []
    for n, (server, title) in enumerate(titles.items()):
        x, y = MARGIN + n % 4 * 283, top + n // 4 * 20
        drawn.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colours[server]}"/>')
        drawn.append(text(x + 18, y + 11, f"{server}: {title}"))
    y = top + (len(titles) + 3) // 4 * 20 + 22
    drawn.append(text(BARS, y, "requests per second, median of the rounds", 'class="title"'))
    drawn.append(text(POINTS - 100, y, "latency, median of the rounds:", 'class="title"'))
    for n, percentile in enumerate(PERCENTILES):
        x = POINTS + 140 + n * 75
        drawn += [marker(x, y - 4, n, "#333"), text(x + 10, y, percentile)]
    return drawn


def draw(heading: str, note: str, titles: Mapping[str, str], works: Mapping[str, Sequence[Row]]) -> str:
    """The whole picture: the titles of the servers by name, and the rows by the title of each work."""
    colours = {server: COLOURS[n % len(COLOURS)] for n, server in enumerate(titles)}
    axis = Decades([value for rows in works.values() for row in rows for value in row.latencies])
    drawn = [text(MARGIN, 34, heading, 'class="heading"'), text(MARGIN, 54, note, 'class="small"')]
    drawn += legend(70, titles, colours)
    top = 70 + (len(titles) + 3) // 4 * 20 + 30
    for title, rows in works.items():
        drawn += block(top, title, rows, colours, axis)
        top += TITLE + ROW * len(rows) + GAP
    style = (
        "text { font: 12px sans-serif; fill: #22262d; } .small { font-size: 10.5px; fill: #5b6370; }"
        " .title { font-weight: bold; font-size: 13px; } .heading { font-weight: bold; font-size: 17px; }"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}">\n'
        f"<style>{style}</style>\n"
        f'<rect width="{WIDTH}" height="{top}" fill="#fcfcfd"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )
