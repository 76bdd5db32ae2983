"""Frames: lines, and who tries to break them."""

from __future__ import annotations

from httpx_sse._decoders import SSEDecoder, SSELineDecoder

from tests.compare.lab import Lab
from tests.compare.rows.yields import failure
from tests.compare.table import Section

row = Section("Frames")


@row("lines end in", "LF")
async def line_ends(lab: Lab) -> str:
    watcher = await lab.whole("/item?kind=event")
    return "CR LF" if b"\r\n" in watcher.body else "LF"


async def data(lab: Lab, kind: str, sent: str) -> str:
    watcher = await lab.whole(f"/item?kind={kind}")
    found = [each.data for each in watcher.events]
    return "arrives whole" if found == [sent] else f"arrives as {found}"


@row("text of lines that end in LF, CR LF and CR", "arrives whole")
async def lines(lab: Lab) -> str:
    return await data(lab, "lines", "a\nb\nc\nd")


@row("text with U+2028, U+0085, VT and FF, which end no line here", "arrives whole")
async def separators(lab: Lab) -> str:
    return await data(lab, "separators", "a\u2028b\u0085c\x0bd\x0ce")


@row("text that ends with a line end", "arrives whole")
async def trailing(lab: Lab) -> str:
    return await data(lab, "trailing", "a\n")


@row("an event that has a type and no data", "reaches its listener")
async def type_alone(lab: Lab) -> str:
    watcher = await lab.whole("/item?kind=type")
    is_heard = any(each.event == "x" for each in watcher.events)
    return "reaches its listener" if is_heard else "is dropped by every client"


async def forged(lab: Lab, kind: str) -> str:
    watcher = await lab.whole(f"/item?kind={kind}")
    if any(each.data == "forged" for each in watcher.events):
        return "makes an event of its own"
    return "is refused" if failure(lab, watcher) else "is taken apart"


@row("an event type with line ends in it", "is refused")
async def forged_type(lab: Lab) -> str:
    said = await forged(lab, "forged-type")
    return "has them removed, silently" if said == "is taken apart" else said


@row("an id with line ends in it", "is refused")
async def forged_id(lab: Lab) -> str:
    said = await forged(lab, "forged-id")
    return "has them removed, silently" if said == "is taken apart" else said


@row("an id with NUL in it, which clients ignore", "is refused")
async def nul(lab: Lab) -> str:
    watcher = await lab.whole("/item?kind=nul")
    return "is refused" if failure(lab, watcher) else "is sent"


@row("a comment with line ends in it", "stays a comment")
async def forged_comment(lab: Lab) -> str:
    said = await forged(lab, "forged-comment")
    return "stays a comment" if said == "is taken apart" else said


@row("a keep-alive after an event with an id, for httpx-sse", "is nothing", is_long=True)
async def ghost(lab: Lab) -> str:
    # Elsewhere as it is by default.
    watcher = await lab.begun("/one-often" if await lab.offers("ping") else "/one")
    before = len(watcher.body)
    await watcher.until(lambda seen: b"\n:" in seen.body[before - 1 :], "a keep-alive", 20)
    await watcher.until(lambda seen: seen.body.endswith(b"\n"), "and its line")
    lines_, decoder = SSELineDecoder(), SSEDecoder()
    found = [decoder.decode(line) for line in lines_.decode(bytes(watcher.body).decode())]
    return "is nothing" if sum(each is not None for each in found) == 1 else "is an empty event"
