"""Our protocol stands on uvicorn's: the same tests on the oldest version that we say we support.
The newest is the one that is installed.
"""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def oldest() -> str:
    wanted = metadata.requires("tailrace") or []
    (found,) = (match for text in wanted if (match := re.match(r"uvicorn>=([0-9.]+)$", text)))
    return found[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds that version and nothing else."""
    place = tmp_path_factory.mktemp("uvicorn")
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(place)]
    done = subprocess.run(
        [*pip, f"uvicorn=={oldest()}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        if os.environ.get("CI"):
            pytest.fail(done.stderr)
        pytest.skip(f"uvicorn {oldest()} cannot be had here: {done.stderr[-200:]}")
    return place


def test_the_direct_way_on_the_oldest_uvicorn(place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    said = subprocess.run(
        [sys.executable, "-c", "import uvicorn; print(uvicorn.__version__)"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == oldest()
    tests = ["tests/unit/server/test_protocol.py", "tests/unit/server/test_app.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
