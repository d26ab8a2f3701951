"""Virtual environments of a test's own, for servers that cannot be installed beside the platform; made once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def venv_with(name: str, requirements: Sequence[str]) -> Path:
    """The ``bin`` folder of an environment with these packages, from the index that pip is configured for."""
    digest = hashlib.sha256("\n".join((sys.version, *requirements)).encode()).hexdigest()[:12]
    home = Path(tempfile.gettempdir()) / f"shadow-venv-{os.getuid()}-{name}-{digest}"
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "done").exists():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *requirements], check=True)
            (home / "done").touch()
    return home / "bin"
