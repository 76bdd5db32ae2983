"""What stands behind Pushpin: it answers each watcher once, and Pushpin holds the stream."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.servers.payload import text


async def events(request: Request) -> Response:
    first = f"data: {text(0, 1, 198)}\n\n" if request.url.path == "/one" else ""
    return Response(
        first,
        media_type="text/event-stream",
        headers={
            "Grip-Hold": "stream",
            "Grip-Channel": "bench",
            "Grip-Keep-Alive": ": ping\\n\\n; format=cstring; timeout=5",
        },
    )


app = Starlette(routes=[Route("/events", events), Route("/one", events)])
