"""Closed-loop load by ``wrk``, pinned to one core: how many answers a second a server gives at most."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from shadow_mlops.example import generate

_SCRIPT = """
local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local requests, n = {}, 0
init = function(args)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  for i, body in ipairs(bodies) do requests[i] = wrk.format(nil, "/predict", nil, body) end
end
request = function() n = n %% #requests + 1; return requests[n] end
done = function(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests": %%d, "microseconds": %%d, "failed": %%d, "p50_us": %%d, "p99_us": %%d}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.timeout + e.status,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Load:
    """One run of ``wrk``."""

    rate: float
    """Answers per second."""
    failed: int
    """Answers other than 2xx, and socket errors."""
    p50_ms: float
    p99_ms: float
    requests: int


def write_script(directory: Path, *, seed: int, rows: int = 500) -> Path:
    """The Lua script that posts the example's customers in turn."""
    bodies = directory / "bodies.jsonl"
    with bodies.open("w") as file:
        for request in islice(generate(rows, seed=seed).requests(), rows):
            file.write(json.dumps(request) + "\n")
    script = directory / "predict.lua"
    script.write_text(_SCRIPT % bodies)
    return script


def run(url: str, script: Path, *, seconds: float, connections: int, core: int | None) -> Load:
    """Load the server; ``core`` pins the generator, None leaves it free."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    pin = [] if core is None else ["taskset", "-c", str(core)]
    command = [
        *pin,
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
        url,
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = json.loads(
        next(line for line in output.splitlines() if line.startswith("RESULT ")).removeprefix("RESULT ")
    )
    return Load(
        rate=result["requests"] / (result["microseconds"] / 1e6),
        failed=result["failed"],
        p50_ms=result["p50_us"] / 1e3,
        p99_ms=result["p99_us"] / 1e3,
        requests=result["requests"],
    )
