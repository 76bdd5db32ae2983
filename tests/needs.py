"""Programs that some tests need."""

import os
import shutil

import pytest


def needs(program: str) -> pytest.MarkDecorator:
    """Skip where there is no such program, except in CI, which has to have it."""
    is_missing = shutil.which(program) is None and not os.environ.get("CI")
    return pytest.mark.skipif(is_missing, reason=f"there is no {program} here")
