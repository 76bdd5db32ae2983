"""An app with limits, in which nobody says who they are: each counts by their address."""

from fastapi import FastAPI

from tailrace import Limits, Tailrace

runs = Tailrace("memory:", limits=Limits(rates={"watch": "3/minute"}))
app = FastAPI(lifespan=runs.lifespan)
app.mount("/inner", runs.asgi)
