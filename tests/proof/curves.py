"""What a soak has seen, as SVG written by hand: one curve a figure, over time. Knows nothing of where it comes from."""

from collections.abc import Sequence
from typing import NamedTuple

from bench.plot import line, text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, GAP = 900, 170, 90, 30, 70, 50


class Curve(NamedTuple):
    """A figure over time: at each of the moments its value."""

    title: str
    values: Sequence[float]
    colour: str


def scale(most: float) -> float:
    """A round number that is not below the highest value."""
    size = 1.0
    while size * 10 <= most:
        size *= 10
    return next(size * step for step in (1, 2, 3, 4, 5, 6, 8, 10) if size * step >= most)


def draw(heading: str, note: str, seconds: Sequence[float], curves: Sequence[Curve]) -> str:
    """The whole picture. `seconds` are the moments."""
    drawn = [text(LEFT, 28, heading, 'class="heading"'), text(LEFT, 48, note)]
    height = TOP + len(curves) * (HEIGHT + GAP)
    for n, curve in enumerate(curves):
        drawn += _panel(TOP + n * (HEIGHT + GAP), seconds, curve)
    style = "text { font: 12px sans-serif; fill: #22262d; } .heading { font-weight: bold; font-size: 16px; }"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">\n'
        f'<style>{style}</style>\n<rect width="{WIDTH}" height="{height}" fill="#fcfcfd"/>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def _panel(top: float, seconds: Sequence[float], curve: Curve) -> list[str]:
    most, last = scale(max(curve.values)), seconds[-1]
    bottom = top + HEIGHT

    def x(moment: float) -> float:
        return LEFT + moment / last * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return bottom - value / most * (HEIGHT - 20)

    drawn = [text(LEFT, top + 10, curve.title)]
    for part in range(5):
        value = most * part / 4
        drawn += [
            line(LEFT, y(value), WIDTH - RIGHT, y(value), "#e3e6eb"),
            text(LEFT - 8, y(value) + 4, f"{value:g}", 'text-anchor="end"'),
            text(x(last * part / 4), bottom + 16, f"{last * part / 4:g} s", 'text-anchor="middle"'),
        ]
    points = " ".join(f"{x(moment):.1f},{y(value):.1f}" for moment, value in zip(seconds, curve.values, strict=True))
    return [*drawn, f'<polyline points="{points}" fill="none" stroke="{curve.colour}" stroke-width="1.6"/>']
