import atexit
import os
import signal
import tempfile

import pytest
from hypothesis import settings

# Ignored by whoever started us (`nohup make test`), it would be ignored by all that we start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Those of whoever runs the tests must not close the servers that the tests start, nor must the
# tests leave a key behind for theirs.
_home = tempfile.TemporaryDirectory()
atexit.register(_home.cleanup)
for _kind in ("CONFIG", "STATE"):
    os.environ[f"XDG_{_kind}_HOME"] = f"{_home.name}/{_kind.lower()}"
os.environ.pop("TAILRACE_KEYS", None)
os.environ.pop("TAILRACE_KEY", None)

settings.register_profile("dev", deadline=None, max_examples=100, print_blob=True)
settings.register_profile("ci", deadline=None, max_examples=300, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


# Session-wide, so that async fixtures of any scope may depend on it.
@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
