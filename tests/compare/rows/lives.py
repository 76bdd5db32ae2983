"""What a stream and its generator go through: silence, leaving, failing, and others."""

from __future__ import annotations

import asyncio
import time

from tests.compare.lab import ENOUGH, Lab, happens
from tests.compare.table import Section
from tests.watching import Stalled

quiet = Section("Silence")
leaving = Section("Who leaves, and what fails")
slow = Section("Who does not read, and who does not wait")

ABSENT = "no such parameter"


# --- silence -------------------------------------------------------------------------------------


@quiet("a silent stream is kept alive, by default", "every 15 s", is_long=True)
async def keep_alive(lab: Lab) -> str:
    watcher = await lab.begun("/one")
    began, before = time.monotonic(), len(watcher.body)
    if not await happens(lambda: len(watcher.body) > before, 40):
        return "not within 40 s"
    return f"every {time.monotonic() - began:.0f} s"


@quiet("`ping=1`", "every 1 s", is_long=True)
async def ping_often(lab: Lab) -> str:
    if not await lab.offers("ping"):
        return ABSENT
    watcher = await lab.open(f"/ping-often?mark={lab.mark()}")
    await watcher.until(lambda seen: seen.body.count(b"\n:") >= 1, "a sign of life")
    before, began = watcher.body.count(b"\n:"), time.monotonic()
    await watcher.until(lambda seen: seen.body.count(b"\n:") >= before + 3, "three more")
    return f"every {(time.monotonic() - began) / 3:.0f} s"


@quiet("`ping=0`", "never")
async def ping_never(lab: Lab) -> str:
    if not await lab.offers("ping"):
        return ABSENT
    watcher = await lab.open(f"/ping-never?mark={lab.mark()}")
    await watcher.until(lambda seen: seen.status, "it answers")
    await happens(lambda: False, 0.2)
    before = len(watcher.body)
    return "often" if await happens(lambda: len(watcher.body) > before) else "never"


@quiet("a sign of life of one's own", "is sent", is_long=True)
async def ping_own(lab: Lab) -> str:
    if not await lab.offers("ping_message_factory"):
        return ABSENT
    watcher = await lab.open(f"/ping-own?mark={lab.mark()}")
    is_sent = await happens(lambda: any(each.event == "ping" for each in watcher.events), 3)
    return "is sent" if is_sent else "is not sent"


@quiet("with `ping=1` a stream with ten events a second has", "none", is_long=True)
async def ping_busy(lab: Lab) -> str:
    if not await lab.offers("ping"):
        return ABSENT
    watcher = await lab.whole("/steady")
    first = watcher.body.index(b"data: ")
    last = watcher.body.rindex(b"data: ")
    return "some all the same" if b"\n:" in watcher.body[first:last] else "none"


# --- leaving and failing -------------------------------------------------------------------------


async def left(lab: Lab) -> str:
    mark = lab.mark()
    watcher = await lab.begun(f"/one?mark={mark}")
    watcher.leave()
    if not await happens(lambda: lab.noted(f"{mark} finally")):
        return "is not told"
    raised = lab.notes(mark)[0]
    return "is cancelled at once" if raised == "CancelledError" else f"gets {raised}"


@leaving("the client leaves: the generator", "is cancelled at once")
async def leave(lab: Lab) -> str:
    return await left(lab)


@leaving("the same within `BaseHTTPMiddleware`", "is cancelled at once", is_long=True)
async def leave_middleware(lab: Lab) -> str:
    async with lab.another(middleware="base") as within:
        return await left(within)


@leaving("what its `finally` awaits, such as the closing of a session", "is done")
async def closing(lab: Lab) -> str:
    mark = lab.mark()
    watcher = await lab.begun(f"/closing?mark={mark}")
    watcher.leave()
    return "is done" if await happens(lambda: lab.noted(f"{mark} put away")) else "is cut off"


@leaving("a plain generator, in a thread: its `finally`", "runs", is_long=True)
async def plain_finally(lab: Lab) -> str:
    # Elsewhere it is the garbage collector's: so nobody else is here whose garbage it may find.
    async with lab.another() as own:
        mark = own.mark()
        watcher = await own.begun(f"/blocking?mark={mark}&count=1000")
        watcher.leave()
        is_run = await happens(lambda: own.noted(f"{mark} finally"), 3)
    return "runs" if is_run else "not within 3 s"


@leaving("background work, after the end and after who left", "is done, both times")
async def background(lab: Lab) -> str:
    await lab.whole(f"/after?mark={lab.mark()}&count=1")
    at_end = await happens(lambda: lab.noted("after: it ran"))
    watcher = await lab.begun(f"/after-leaving?mark={lab.mark()}")
    watcher.leave()
    at_leaving = await happens(lambda: lab.noted("after-leaving: it ran"))
    times = {(True, True): "both times", (True, False): "only at the end"}
    return f"is done, {times.get((at_end, at_leaving), 'not even at the end')}"


@leaving("a dependency that yields is open", "while the stream is")
async def dependency(lab: Lab) -> str:
    mark = lab.mark()
    watcher = await lab.whole(f"/depending?mark={mark}")
    await happens(lambda: lab.noted(f"{mark} closed"))
    assert watcher.is_complete
    in_order = lab.notes(mark) == ["opened", "used", "closed"]
    return "while the stream is" if in_order else "not so long"


@leaving("five events and an error: of the five arrive", "5")
async def failed_events(lab: Lab) -> str:
    watcher = await lab.whole("/failing?count=5")
    return str(sum(each.event == "message" for each in watcher.events))


@leaving("and the client is told", "by an `error` event and a proper end")
async def failed_told(lab: Lab) -> str:
    watcher = await lab.whole("/failing?count=5")
    told = any(each.event == "error" for each in watcher.events)
    end = "a proper end" if watcher.is_complete else "a cut"
    return f"by an `error` event and {end}" if told else f"by {end} alone"


@leaving("and the server's log has", "the error")
async def failed_log(lab: Lab) -> str:
    before = len(lab.server.log)
    await lab.whole("/failing?count=5")
    if await happens(lambda: "\nZeroDivisionError" in lab.logged(before), 2):
        return "the error"
    return "an ExceptionGroup" if "ExceptionGroup" in lab.logged(before) else "nothing"


# --- slow and busy ones --------------------------------------------------------------------------


@slow("one who does not read, by default", "is cut within 40 s", is_long=True)
async def stalled(lab: Lab) -> str:
    return await stalled_for(lab, "/forever?size=10000&pause=0.001", 40)


@slow("and with `send_timeout=1`", "is cut within 5 s", is_long=True)
async def stalled_bounded(lab: Lab) -> str:
    if not await lab.offers("send_timeout"):
        return ABSENT
    return await stalled_for(lab, "/forever-bounded?size=10000&pause=0.001", 5)


async def stalled_for(lab: Lab, target: str, within: float) -> str:
    mark = lab.mark()
    connection = Stalled(lab.server.port, f"{target}&mark={mark}")
    try:
        is_cut = await happens(lambda: lab.noted(f"{mark} finally"), within)
        return f"is cut within {within:g} s" if is_cut else f"is not cut within {within:g} s"
    finally:
        connection.close()


@slow("a generator that never waits: others get an answer", "at once", is_alone=True)
async def never_waits(lab: Lab) -> str:
    async with lab.another() as own:
        watcher = await own.begun(f"/forever?mark={own.mark()}")
        answers = 0
        try:
            for _ in range(3):
                await own.ask("/healthz", 2.0)
                answers += 1
        except TimeoutError:
            pass
        watcher.leave()
    return "at once" if answers == 3 else "not within 2 s"


@slow("and who leaves it ends it", "at once", is_alone=True)
async def never_waits_left(lab: Lab) -> str:
    async with lab.another() as own:
        mark = own.mark()
        watcher = await own.begun(f"/forever?mark={mark}")
        watcher.leave()
        is_over = await happens(lambda: own.noted(f"{mark} finally"), 3)
        return "at once" if is_over else "not within 3 s"


@slow("beside 45 plain generators that block, a `def` endpoint answers", "at once", is_alone=True)
async def starved(lab: Lab) -> str:
    async with lab.another() as own:
        mark = own.mark()
        streams = [own.begun(f"/blocking?mark={mark}&count=2&pause=4") for _ in range(45)]
        opening = [asyncio.ensure_future(each) for each in streams]
        await happens(lambda: sum(each.done() for each in opening) >= 40, 10)
        began = time.monotonic()
        await own.ask("/unrelated", 30)
        took = time.monotonic() - began
        for each in opening:
            each.cancel()
        await asyncio.wait(opening)
    return "at once" if took < ENOUGH else "when one of them goes on"
