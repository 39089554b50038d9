"""The house: who may import whom, as data; no cycles; nothing that prints, sleeps or swallows everything."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "registryd"

#: What each room may import of registryd. A room is a module or a folder; "registryd" is the version in __init__.py.
ALLOWED: dict[str, set[str]] = {
    "core": {"core"},
    "histogram": set(),
    "traffic": {"histogram"},
    "store": {"core", "histogram", "store"},
    "clock": set(),
    "feed": {"core"},
    "registry": {"core", "store", "feed", "clock"},
    "sweeper": {"registry", "clock", "histogram"},
    "systemd": set(),
    "overload": set(),
    "listeners": {"overload"},
    "logs": {"core", "systemd", "logs"},
    "control": set(),
    "config": {"core", "registryd"},
    "auth": {"core"},
    "tls": set(),
    "api": {"core", "registry", "feed", "auth", "tls", "overload", "histogram", "traffic", "api", "registryd"},
    "front": {"tls", "overload"},
    "server": {
        "core", "store", "clock", "feed", "registry", "sweeper", "systemd", "listeners", "logs", "config", "auth",
        "tls", "overload", "api", "front", "control", "registryd",
    },
    "cli": {"server", "config", "auth", "tls", "control", "listeners", "logs", "store"},
    "__main__": {"cli"},
    "client": {"core"},
    "ctl": {"core", "client", "registryd"},
}  # fmt: skip

#: Faces never import each other.
FACES = {"v1", "hot", "watch", "openapi", "sd", "metrics", "page"}

#: What the core may import from elsewhere: nothing that knows a clock, a socket or a log.
CORE_MAY = {
    "collections", "dataclasses", "functools", "heapq", "ipaddress", "itertools", "math", "msgspec", "random", "re",
    "typing",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module by its dotted name below registryd."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }


def room(module: str) -> str:
    return module.partition(".")[0] if module != "__init__" else "registryd"


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(path: Path) -> set[str]:
    """The modules of registryd that a file imports, by dotted name below registryd."""
    known = modules()
    found = set()
    for name in imports(path):
        if name.partition(".")[0] != "registryd":
            continue
        inner = name.removeprefix("registryd.")
        while inner not in known and "." in inner:
            inner = inner.rpartition(".")[0]
        found.add(inner if inner in known else "__init__")
    return found


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_room_imports_only_what_it_may(module: str) -> None:
    if module == "__init__":
        assert imports(modules()[module]) == set()
        return
    used = {room(other) for other in own_imports(modules()[module])} - {room(module)}

    assert used <= ALLOWED[room(module)]


def test_the_client_needs_nothing_of_the_server_but_the_names_of_its_errors() -> None:
    used = {other for module, path in modules().items() if room(module) == "client" for other in own_imports(path)}

    assert {other for other in used if room(other) != "client"} == {"core.errors"}


def test_every_room_is_in_the_plan() -> None:
    assert {room(module) for module in modules()} - {"registryd"} == ALLOWED.keys()


def test_there_is_no_cycle() -> None:
    graph = {module: own_imports(path) - {module} for module, path in modules().items()}
    while graph:
        leaves = {module for module, used in graph.items() if not used & graph.keys()}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {module: used for module, used in graph.items() if module not in leaves}


def test_faces_do_not_import_each_other() -> None:
    for face in FACES:
        others = {f"api.{other}" for other in FACES - {face}}
        assert not own_imports(PACKAGE / f"api/{face}.py") & others


@pytest.mark.parametrize("module", sorted(module for module in modules() if room(module) == "core"))
def test_the_core_knows_no_clock_no_io_and_no_log(module: str) -> None:
    used = {name.partition(".")[0] for name in imports(modules()[module])}

    assert used <= CORE_MAY | {"registryd"}


@pytest.mark.parametrize("module", sorted(modules()))
def test_nothing_swallows_everything_and_only_the_command_line_prints(module: str) -> None:
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"line {node.lineno}: bare except"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print" or module == "cli", f"line {node.lineno}: print"


def test_the_top_level_is_as_agreed() -> None:
    there = {path.name for path in ROOT.iterdir() if not path.name.startswith(".") and not path.name.endswith("-info")}

    assert there - {"build", "dist"} <= {"registryd", "tests", "systemd", "README.md", "setup.py", "LICENSE"}


#: Programs that put the daemon under load for as long as they are told to are no tests.
LOADS = {
    "soak.py", "traffic.py", "workload.py", "histories.py", "hostile.py", "chaos.py", "planted.py", "flood.py",
    "attacks.py",
}  # fmt: skip
TESTS = [path for path in sorted(ROOT.glob("tests/**/*.py")) if path.name not in LOADS]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_no_test_sleeps_for_time_to_pass(path: Path) -> None:
    text = path.read_text()

    assert path == Path(__file__) or not re.search(r"\btime\.sleep\(", text)
    # On a travelling loop a sleep takes no time; elsewhere nothing is waited for by guessing.
    if path != Path(__file__) and "asyncio.sleep(" in text.replace("asyncio.sleep(0)", ""):
        assert "TimeTravel" in text
