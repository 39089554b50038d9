"""The checker finds nothing in what clients of registryd have seen, and finds each fault that is planted in it."""

import re
import sys
from pathlib import Path

import msgspec
import pytest
from process import DEADLINE
from proof.histories import prove
from proof.history import Operation
from proof.planted import FAULTS

pytestmark = pytest.mark.e2e

PLANTED = Path(__file__).with_name("planted.py")


def test_some_order_of_one_registry_explains_what_its_clients_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "history"
    is_explained = prove(tmp_path, 1, 3.0, None, out, kill=False)

    printed = capsys.readouterr().out
    assert is_explained, printed
    *lines, last = out.read_bytes().splitlines()
    assert last.startswith(b'{"life":')
    operations = [msgspec.json.decode(line, type=Operation) for line in lines]
    assert {operation.outcome for operation in operations} >= {"ok", "unknown_instance", "stale_generation"}
    assert f"{len(operations):,} operations of 8 clients on 2 services of 3 ids" in printed
    assert re.search(r"indices compared: [1-9][\d,]*; seed 1\n$", printed)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [sys.executable, str(PLANTED), fault]
    is_explained = prove(tmp_path, 1, DEADLINE, argv, None, kill=fault == "early-answer", rounds=1.0)

    printed = capsys.readouterr().out
    assert not is_explained, printed
    assert re.match(r"no order of one registry explains:\n  #\d+ ", printed), printed
