"""What the client needs to be imported: nothing that only Unix has, nothing of the server, and little at all."""

import json
import subprocess
import sys

import pytest

#: Imports a module as on a system without these, and prints what is loaded then.
PROGRAM = """
import importlib, json, sys

for name in ("fcntl", "grp", "posix", "pwd", "resource", "syslog", "termios", "tty", "pty"):
    # What the interpreter itself has loaded by now it has there in another form.
    if name not in sys.modules:
        sys.modules[name] = None
before = set(sys.modules)
module = importlib.import_module(sys.argv[1])
for name in sys.argv[2:]:
    getattr(module, name)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded(module: str, *names: str) -> set[str]:
    argv = [sys.executable, "-c", PROGRAM, module, *names]
    return set(json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout))


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("registryd.client", ["register_service", "Discovery", "Instance"]),
        ("registryd.client.aio", []),
        ("registryd.client.blocking", []),
        ("registryd.client.http", []),
    ],
)
def test_it_can_be_imported_where_there_is_no_unix_and_takes_nothing_of_the_server(
    module: str, names: list[str]
) -> None:
    own = {name for name in loaded(module, *names) if name.startswith("registryd")}

    assert all(name == "registryd" or name.startswith(("registryd.client", "registryd.core")) for name in own), own
    assert {name for name in own if name.startswith("registryd.core.")} <= {"registryd.core.errors"}


def test_what_is_not_used_is_not_loaded() -> None:
    assert "asyncio" not in loaded("registryd.client")
    assert "tornado" not in loaded("registryd.client.blocking")
    assert "msgspec" not in loaded("registryd.client.aio")


def test_all_that_it_offers_is_there_and_nothing_else() -> None:
    import registryd.client

    assert [getattr(registryd.client, name).__name__ for name in registryd.client.__all__] == registryd.client.__all__
    assert not hasattr(registryd.client, "Nothing")
