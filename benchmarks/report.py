"""What every benchmark prints, and writes with ``--write``: figures with their seed, commit and machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_LIBRARIES = (
    "fastapi", "uvicorn", "uvloop", "msgspec", "duckdb", "numpy", "pyarrow", "onnxruntime", "scikit-learn", "scipy",
)  # fmt: skip


def machine() -> dict[str, object]:
    """The machine and the libraries that the figures belong to."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def commit() -> str:
    """Commit of the checkout, ``+changes`` where it has any."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    return name + ("+changes" if changed.strip() else "")


def write(name: str, seed: int, figures: dict[str, object]) -> Path:
    """Write ``benchmarks/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "benchmark": name,
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "seed": seed,
        "machine": machine(),
        **figures,
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    grid = Table(title=title, title_justify="left")
    for index, column in enumerate(header):
        grid.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        grid.add_row(*row)
    Console(width=140).print(grid)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median (min-max)."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def median_interval(values: Sequence[float], seed: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """Median, and the percentile-bootstrap interval of it."""
    data = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(data), size=(10_000, len(data)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.median(data[draws], axis=1), [tail, 1 - tail])
    return float(np.median(data)), float(low), float(high)
