"""Coverage-guided fuzzing: `python tests/proof/fuzz.py front --seconds 600 [--corpus DIR]`

atheris (libFuzzer) makes up inputs for one of the targets in targets.py, and goes on from those that reach new places
in registryd, Tornado's reading of requests or Python's of TOML. It runs in a process of its own, as it ends that at the
first finding. Says how many inputs were tried, what was reached, and how many of them are kept in the corpus, a folder
that can be gone on with. On a finding it prints the stack and the input, writes that to a file, and ends with status 1.
"""

import argparse
import base64
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# As in a test, a module of this room is imported from the folder of the tests.
TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

#: What is measured; the rest of Python and the tests are not, but for the module with the targets.
INSTRUMENTED = ["registryd", "tornado.httputil", "tornado.escape", "tornado.web", "tornado.routing", "tomllib"]
NAMES = ["front", "json", "target", "settings", "auth"]
_PROGRESS = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)")


class Outcome(NamedTuple):
    """What has come of it."""

    executions: int
    #: Places in the code that were reached, and features: those, each with how often.
    places: int
    features: int
    corpus: int
    #: The file with the input that broke a promise; None where there is none.
    finding: Path | None
    output: str


def fuzz(name: str, flags: Sequence[str], corpus: Path, findings: Path, module: str = "proof.targets") -> Outcome:
    """Fuzzes a target with these flags of libFuzzer. Raises CalledProcessError where that could not even begin."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            __file__,
            "--child",
            module,
            name,
            *flags,
            f"-artifact_prefix={folder}/",
            str(corpus),
        ]
        ran = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=os.environ | {"PYTHONPATH": path}, check=False,
        )  # fmt: skip
        found = [Path(shutil.copy(file, findings / f"{name}-{file.name}")) for file in Path(folder).iterdir()]
    # A seed that breaks a promise ends it before it says how far it is.
    progress = [tuple(map(int, match.groups())) for match in _PROGRESS.finditer(ran.stdout)] or [(0, 0, 0, 0)]
    if not found and (ran.returncode or progress[-1] == (0, 0, 0, 0)):
        raise subprocess.CalledProcessError(ran.returncode, command, ran.stdout)
    tried, places, features, kept = progress[-1]
    return Outcome(tried, places, features, kept, found[0] if found else None, ran.stdout)


def child(module: str, name: str, flags: list[str]) -> None:
    """Fuzzes in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=[*INSTRUMENTED, module], enable_loader_override=False):
        target = importlib.import_module(module).TARGETS[name]
    corpus = Path(flags[-1])
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *flags], target.one)
    atheris.Fuzz()


def told(name: str, outcome: Outcome) -> str:
    """The outcome for people."""
    counts = f"{outcome.executions:,} executions, {outcome.places:,} places, {outcome.features:,} features"
    kept = f"{outcome.corpus:,} inputs in the corpus, {'no finding' if outcome.finding is None else 'a finding'}"
    lines = [f"{name}: {counts}, {kept}"]
    if outcome.finding is not None:
        data = outcome.finding.read_bytes()
        stack = outcome.output[outcome.output.find("Uncaught Python exception") :]
        lines += [stack, f"{data!r}", base64.b64encode(data).decode(), f"The input is in {outcome.finding}"]
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0, help="of the dice; 0 takes another each time")
    parser.add_argument("--corpus", type=Path, help="folder to begin with and to keep what reaches something new")
    parser.add_argument("--findings", type=Path, default=Path.cwd(), help="folder for what is found [this one]")
    asked = parser.parse_args()
    flags = [f"-max_total_time={asked.seconds}", f"-seed={asked.seed}", "-max_len=4096", "-timeout=20"]
    with tempfile.TemporaryDirectory() as folder:
        corpus = asked.corpus or Path(folder)
        corpus.mkdir(parents=True, exist_ok=True)
        outcome = fuzz(asked.target, flags, corpus, asked.findings)
    print(told(asked.target, outcome))
    sys.exit(outcome.finding is not None)


if __name__ == "__main__":
    main()
