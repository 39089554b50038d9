"""Schemathesis reads /openapi.json and tries, on a live daemon, whatever the document allows and forbids."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from process import RunningDaemon

pytestmark = pytest.mark.e2e

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
]


def test_no_500_and_no_answer_that_is_not_described(daemon: RunningDaemon, tmp_path: Path) -> None:
    program = shutil.which("schemathesis", path=sysconfig.get_path("scripts"))
    assert program is not None
    # Nobody needs to wait for ten minutes here; and a stream has no end, which test_watch.py knows how to read.
    (tmp_path / "schemathesis.toml").write_text('[parameters]\n"query.wait" = "10ms"\n')
    ran = subprocess.run(
        [
            program, "--config-file", str(tmp_path / "schemathesis.toml"), "run", f"{daemon.url}/openapi.json",
            "--checks", ",".join(CHECKS), "--max-examples", "40", "--seed", "20240115", "--request-timeout", "10",
            "--exclude-operation-id", "get_watch", "--no-color",
        ],
        capture_output=True, text=True, check=False, timeout=180, cwd=tmp_path,
    )  # fmt: skip

    found = ran.stdout.partition("= FAILURES =")[2]
    assert ran.returncode == 0, f"{found[:4000]} ... {ran.stdout[-2000:]}"
    assert "ERROR" not in daemon.output
    assert daemon.fetch("/status").json["status"] == "ok"
