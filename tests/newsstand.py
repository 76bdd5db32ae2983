"""Feeds as they are in the world, and a server that has them."""

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

NOON: Final = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

METADATA: Final = "http://search.cnbc.com/rss/2.0/modules/siteContentMetadata"


def rss(*titles: str, first: int = 1, encoding: str = "utf-8", head: str = "") -> bytes:
    """RSS 2.0 as CNBC has it: the titles, the newest first, with guids from `first` on."""
    items = "".join(
        f"<item><link>https://www.cnbc.com/{number}.html</link>"
        f'<guid isPermaLink="false">{number}</guid>'
        f"<metadata:type>cnbcnewsstory</metadata:type><metadata:id>{number}</metadata:id>"
        "<metadata:sponsored>false</metadata:sponsored>"
        f"<title>{escape(title, quote=False)}</title>"
        f"<description><![CDATA[About {number}.]]></description>"
        f"<pubDate>{format_datetime(NOON - timedelta(minutes=at), usegmt=True)}</pubDate></item>\n"
        for at, (number, title) in enumerate(enumerate(titles, first))
    )
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n{head}'
        f'<rss xmlns:metadata="{METADATA}" version="2.0"><channel><title>Top News</title>'
        f"<link>https://www.cnbc.com/</link><description>x</description>\n{items}</channel></rss>"
    )
    return text.encode(encoding)


def atom(*titles: str) -> bytes:
    """Atom as the SEC has it."""
    entries = "".join(
        f"<entry><title>{escape(title, quote=False)}</title>"
        f'<link rel="alternate" type="text/html" href="https://www.sec.gov/{number}.htm"/>'
        '<summary type="html"> &lt;b&gt;Filed:&lt;/b&gt; 2026-11-20</summary>'
        f"<updated>2026-11-20T07:0{number}:00-05:00</updated>"
        '<category scheme="https://www.sec.gov/" label="form type" term="8-K"/>'
        f"<id>urn:tag:sec.gov,2008:accession-number={number}</id></entry>\n"
        for number, title in enumerate(titles, 1)
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1" ?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
        "<title>Latest Filings</title><id>https://www.sec.gov/</id>"
        f"<updated>2026-11-20T12:00:00-05:00</updated>\n{entries}</feed>"
    ).encode("iso-8859-1")


def rdf(*titles: str) -> bytes:
    """RSS 1.0 as central banks have it."""
    items = "".join(
        f'<item rdf:about="https://www.ecb.europa.eu/{number}"><title>{escape(title)}</title>'
        f"<link>https://www.ecb.europa.eu/{number}</link>"
        f"<dc:date>2026-11-20T0{number}:00:00+01:00</dc:date></item>\n"
        for number, title in enumerate(titles, 1)
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        'xmlns="http://purl.org/rss/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<channel rdf:about="https://www.ecb.europa.eu/"><title>Press</title></channel>\n{items}'
        "</rdf:RDF>"
    ).encode()


# An ampersand by itself, a tag left open, and the end is missing.
MALFORMED: Final = (
    b'<?xml version="1.0"?><rss version="2.0"><channel><title>Broken</title>'
    b"<item><title>Profits & losses</title><guid>1</guid><link>https://example.com/1</link></item>"
    b"<item><title>Half an item</title><guid>2</guid><b></item>"
)

XXE: Final = rss("Before &xxe; after").replace(b"&amp;xxe;", b"&xxe;").replace(
    b"<rss", b'<!DOCTYPE rss [<!ENTITY xxe SYSTEM "file:///etc/hostname">]>\n<rss', 1
)  # fmt: skip

BOMB: Final = rss("Boom &l9; over").replace(b"&amp;l9;", b"&l9;").replace(
    b"<rss",
    b'<!DOCTYPE rss [<!ENTITY l0 "laughing">'
    + b"".join(
        b'<!ENTITY l%d "%s">' % (at, b"&l%d;" % (at - 1) * 10) for at in range(1, 10)
    )
    + b"]>\n<rss",
    1,
)  # fmt: skip


@dataclass
class Page:
    """What is answered. `gate`: only once it is set."""

    body: bytes = b""
    content_type: str = "application/rss+xml; charset=utf-8"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    gate: threading.Event | None = None
    packed: bool = False


class Newsstand:
    """A server of feeds; `asked` are the requests it got, with their heads, and `peers` the ports
    they came from.
    """

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.peers: list[int] = []
        self._server: ThreadingHTTPServer | None = None

    def put(self, path: str, body: bytes = b"", **how: Any) -> str:
        """Have a page; its URL."""
        self.pages[path] = Page(body, **how)
        return self.url(path)

    def url(self, path: str) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def count(self, path: str) -> int:
        """How often it was asked for."""
        return sum(asked == path for asked, _ in self.asked)

    @contextlib.contextmanager
    def open(self) -> Iterator["Newsstand"]:
        stand = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                head = {name.lower(): value for name, value in self.headers.items()}
                stand.asked.append((self.path, head))
                stand.peers.append(self.client_address[1])
                page = stand.pages.get(self.path, Page(status=404))
                if page.gate is not None:
                    page.gate.wait(30)
                # Whoever asks may have gone by then.
                with contextlib.suppress(OSError):
                    self.tell(page, head)

            def tell(self, page: Page, head: dict[str, str]) -> None:
                status, body = page.status, page.body
                if page.packed:
                    body = gzip.compress(body)
                etag, since = page.headers.get("etag"), page.headers.get("last-modified")
                if (etag and head.get("if-none-match") == etag) or (
                    since and head.get("if-modified-since") == since
                ):
                    status, body = 304, b""
                self.send_response(status)
                for name, value in page.headers.items():
                    self.send_header(name, value)
                if page.packed:
                    self.send_header("content-encoding", "gzip")
                self.send_header("content-type", page.content_type)
                if status != 304:
                    self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 200

        with Server(("127.0.0.1", 0), Answer) as server:
            self._server = server
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield self
            finally:
                for page in self.pages.values():
                    if page.gate is not None:
                        page.gate.set()
                server.shutdown()
                thread.join()
