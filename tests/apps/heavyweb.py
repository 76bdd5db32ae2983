"""A server of operations that have a process of their own."""

from __future__ import annotations

import os

from tailrace.facade import Tailrace
from tests.apps import heavy

runs = Tailrace(os.environ["TAILRACE_TEST_LOG"], grace=1.0)
runs.operation(process=True)(heavy.loops.function)
runs.operation(process=True)(heavy.stubborn.function)
app = runs.asgi
