"""What a shim is told, for tests that say only what they are about."""

import os
import signal
from collections.abc import Sequence
from typing import Any

from tailrace.runners.shim import Job


def job(argv: Sequence[str], cwd: str, **more: Any) -> Job:
    made: Job = {
        "argv": list(argv),
        "env": dict(os.environ),
        "cwd": cwd,
        "beneath": None,
        "pty": False,
        "size": [24, 80],
        "merge": False,
        "tail": None,
        "stop": int(signal.SIGTERM),
        "once": False,
        "limits": {},
        "files": 1024,
        "output_bytes": None,
        "survives": False,
        "server": os.getpid(),
    }
    return {**made, **more}  # type: ignore[typeddict-item]
