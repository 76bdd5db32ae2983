"""Tailrace mounted in a FastAPI app."""

from fastapi import FastAPI

from bench.servers.tailrace_app import runs

app = FastAPI(lifespan=runs.lifespan)
app.mount("/tailrace", runs.asgi)
