"""Whatever is posted, gateway and console answer in the shapes of their one OpenAPI document, never with 5xx."""

import subprocess
import sys
from pathlib import Path

import pytest

from system import System, get, trained_example, wait_for

EXAMPLES = 60
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


@pytest.mark.slow
def test_no_request_breaks_the_gateway(tmp_path):
    data = trained_example(tmp_path / "data")
    # Thousands of refused requests from one client are the test's business, not the limiter's.
    with System(data, environment={"RATE_LIMIT_REQUESTS": "1000000000"}).running() as system:
        wait_for(lambda: b"/promote" in get(f"{system.url}/openapi.json")[1], "the console's routes are published")
        command = [
            Path(sys.executable).with_name("schemathesis"), "run", f"{system.url}/openapi.json",
            "--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES), "--seed", "1",
            "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color",
        ]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "Tested" in run.stdout
