"""What the README says, taken apart: its commands, samples and tables."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from registryd.api.families import METRICS
from registryd.config import Setting, settings
from registryd.core.limits import flag_of
from registryd.ctl.statuses import rows

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()

_HEADING_OR_BLOCK = re.compile(
    r"^## (?P<heading>[^\n]+)$|^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A fenced block: the heading it stands under, its language, its text."""

    heading: str
    language: str
    text: str


class Step(NamedTuple):
    """A command of a console block, and what it prints."""

    command: str
    output: str


def blocks() -> list[Block]:
    """All fenced blocks, in order."""
    found, heading = [], ""
    for part in _HEADING_OR_BLOCK.finditer(TEXT):
        if part["heading"]:
            heading = part["heading"]
        else:
            found.append(Block(heading, part["language"], part["text"]))
    return found


def block(heading: str, language: str, number: int = 0) -> str:
    """The text of a block: the first, or another, of a language under a heading."""
    return [b.text for b in blocks() if (b.heading, b.language) == (heading, language)][number]


def steps(console: str) -> list[Step]:
    """The commands of a console block, each with its output."""
    found: list[Step] = []
    for line in console.splitlines():
        if line.startswith("$ "):
            found.append(Step(line.removeprefix("$ "), ""))
        else:
            found[-1] = Step(found[-1].command, found[-1].output + line + "\n")
    return found


def without_chance(text: str) -> str:
    """The text with everything that differs from run to run replaced by a word."""
    for regex, word in [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
        (r"Date: .* GMT", "Date: DATE"),
        (r"\b1[5-9]\d{14}\b", "INDEX"),
        (r'"uptime_seconds":[\d.]+', '"uptime_seconds":UPTIME'),
        (r"\bpid=\d+", "pid=PID"),
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b", "UUID"),
    ]:
        text = re.sub(regex, word, text)
    return text.replace("\r", "")


def table(rows: Sequence[Setting]) -> str:
    """Settings as the README shows them; with what takes a change to have it, where they differ in that."""
    differ = len({row.reloads for row in rows}) > 1
    lines = ["| flag | environment | default | | change by |", "|---|---|---|---|---|"]
    for row in rows:
        env = ", ".join(f"`{name}`" for name in row.env)
        change = "reload" if row.reloads else "restart"
        lines.append(f"| `{row.flag}` | {env} | {row.text(row.default)} | {row.help} | {change} |")
    return "\n".join(line if differ else line.rpartition("|")[0].rpartition("|")[0] + "|" for line in lines)


def metrics_table() -> str:
    """The metrics as the README shows them."""
    lines = ["| metric | kind | labels | |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """The tables that are made from the declarations, by the name they have in the README."""
    every = settings()
    limits = [row for row in every if row.flag == flag_of(row.name)]
    statuses = [f"| {status} | {meaning} |" for status, meaning in rows()]
    return {
        "settings": table([row for row in every if row not in limits]),
        "limits": table(limits),
        "metrics": metrics_table(),
        "statuses": "\n".join(["| exit status | means |", "|---|---|", *statuses]),
    }


def checkout(folder: Path) -> Path:
    """A clean copy of what a clone would have, with what is not committed yet."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in names:
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def rewrite() -> None:
    """Puts the tables into the README."""
    text = TEXT
    for name, made in tables().items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{name} -->")
        text = before + begin + made + end + after
    (ROOT / "README.md").write_text(text)


if __name__ == "__main__":
    rewrite()
