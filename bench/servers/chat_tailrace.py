"""Turns of a chat as runs. BENCH_LOG: where they are kept."""

from __future__ import annotations

import os

from fastapi import FastAPI

from bench.servers.stub import model
from tailrace import Tailrace

runs = Tailrace(os.environ.get("BENCH_LOG", "memory:"))
runs.chat(model=model)
app = FastAPI(lifespan=runs.lifespan)
app.include_router(runs.router)
