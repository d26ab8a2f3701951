"""On SIGUSR2 a process writes the names of its imported modules to ``$MODULE_LIST/PID``."""

import os
import signal
import sys
from pathlib import Path


def _write(_number, _frame):
    path = Path(os.environ["MODULE_LIST"]) / str(os.getpid())
    fresh = path.with_suffix(".fresh")
    fresh.write_text("\n".join(sorted(sys.modules)))
    fresh.replace(path)


signal.signal(signal.SIGUSR2, _write)
