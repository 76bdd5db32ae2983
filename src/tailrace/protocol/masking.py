"""Secrets that must not be told: each of them becomes three stars, wherever it stands. Pure.

A secret is known by the bytes it is made of, and by those that it becomes in JSON, in Python's
`repr` and in an address. Whoever encodes it otherwise (base64, hex, backwards, a part of it) gets
it past any mask: masks are for accidents.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple, TypeVar
from urllib.parse import quote, quote_plus

import orjson

from tailrace.errors import SettingsInvalid

MASK: Final = "***"

MIN_CHARACTERS: Final = 8
"""Of a secret. What is shorter stands in half of all lines by chance."""

MAX_BYTES: Final = 4096
"""Of a secret. As much as its longest form has of it may be held back of an output."""

_MASK: Final = MASK.encode()
_QUOTE: Final = 0x22
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
# The strings and the numbers of a JSON text, without those that no secret fits into: they are
# passed by many at a time. No escape is shorter than what it stands for.
_SHORT: Final = rb'"(?:[^"\\]|\\.){0,%d}+"|[0-9-][0-9.eE+-]{0,%d}+(?![0-9.eE+-])'
_TOKEN: Final = re.compile(
    rb'(?:[^"0-9-]++|%b)++|("[^"\\]*+(?:\\.[^"\\]*+)*+"|[0-9-][0-9.eE+-]*+)'
    % (_SHORT % (MIN_CHARACTERS - 1, MIN_CHARACTERS - 2))
)

# What nothing ever escapes; or nothing at all, which is in every text.
_CORE: Final = re.compile(r"[A-Za-z0-9]*")

_Text = TypeVar("_Text", str, bytes)
_Span = tuple[int, int]


class Masks:
    """What hides a set of secrets.

    `secrets`: texts of at least 8 characters and at most 4096 bytes. One of several lines is each
    of its lines of that length, because a terminal ends them otherwise than a file; its shorter
    lines are told. Where secrets overlap, all that they cover is hidden.

    Raises SettingsInvalid, which does not repeat the secret.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        if isinstance(secrets, str):
            raise SettingsInvalid(
                "The secrets to mask are one text, and must be a list of texts.",
                fix="Put it into brackets: secrets=[…].",
            )
        self._secrets = frozenset(line for secret in secrets for line in _lines(secret))
        self._looks = [_Look.of(secret) for secret in sorted(self._secrets)]
        forms = {form for look in self._looks for form in look.forms}
        self._forms = sorted(forms)
        self._first = re.compile(b"[%b]" % re.escape(bytes({form[0] for form in forms} or {0})))
        self.longest = max(map(len, forms), default=0)
        """How many bytes the longest form has."""

    def __bool__(self) -> bool:
        """Whether there is anything to mask."""
        return bool(self._forms)

    def __repr__(self) -> str:
        """How many; never which."""
        return f"<Masks of {len(self._secrets)}>"

    def also(self, secrets: Iterable[str]) -> Masks:
        """These, and further ones. Raises SettingsInvalid."""
        more = frozenset(line for secret in secrets for line in _lines(secret))
        return self if more <= self._secrets else Masks(self._secrets | more)

    # --- which they are, told to nobody -----------------------------------------------------

    def marks(self, salt: str) -> frozenset[str]:
        """What these secrets are recognised by, within one `salt`."""
        return frozenset(_mark(secret, salt) for secret in self._secrets)

    def of(self, salt: str, marks: Collection[str]) -> Masks:
        """Those that have one of these marks."""
        return Masks(secret for secret in self._secrets if _mark(secret, salt) in marks)

    # --- hiding -----------------------------------------------------------------------------

    def apply(self, told: _Text) -> _Text:
        """`told` with three stars for each secret; the very same where there is none."""
        if isinstance(told, bytes):
            spans = self.spans(told)
            return _hidden(told, spans, len(told), 0)[0] if spans else told
        content, errors = _encoded(told)
        spans = self.spans(content)
        if not spans:
            return told
        return _hidden(content, spans, len(content), 0)[0].decode("utf-8", errors)

    def json(self, document: bytes) -> bytes:
        """A JSON text without the secrets in its strings, keys and numbers; still JSON."""
        for core, _, forms in self._looks:
            if core in document and any(form in document for form in forms):
                return self._retold(document)
        return document

    def _retold(self, document: bytes) -> bytes:
        tokens, said = self._tokens(document)
        # All at once, with line ends between them: no secret has one.
        spans = self.spans(b"\n".join(said))
        pieces: list[bytes] = []
        reached = start = at = 0
        for (begin, end), text in zip(tokens, said, strict=True):
            first, edge = at, start + len(text)
            while at < len(spans) and spans[at][0] < edge:
                at += 1
            if at > first:
                own = [(span[0] - start, span[1] - start) for span in spans[first:at]]
                hidden = _hidden(text, own, len(text), 0)[0].decode("utf-8", "replace")
                # As text also for a number: a mask within it would not be JSON.
                is_number = document[begin] != _QUOTE
                pieces += (document[reached:begin], orjson.dumps(MASK if is_number else hidden))
                reached = end
            start = edge + 1
        pieces.append(document[reached:])
        return b"".join(pieces)

    def _tokens(self, document: bytes) -> tuple[list[_Span], list[bytes]]:
        """The strings and numbers of a JSON text that have room for a secret: where, and what they
        say.
        """
        tokens: list[_Span] = []
        said: list[bytes] = []
        for found in _TOKEN.finditer(document):
            token = found[1]
            if token is None:
                continue
            if token[0] != _QUOTE:
                text = token
            elif b"\\" not in token:
                text = token[1:-1]
            else:
                try:
                    text = orjson.loads(token).encode()
                except orjson.JSONDecodeError:
                    # Half of a surrogate pair, brought in ready-made. Nobody could look into it:
                    # it counts as a secret.
                    text = self._forms[0]
            tokens.append(found.span(1))
            said.append(text)
        return tokens, said

    def spans(self, content: bytes) -> list[_Span]:
        """From where to where secrets reach, in order; they may overlap."""
        spans: list[_Span] = []
        for core, forms, _ in self._looks:
            for form in forms if core in content else ():
                at = content.find(form)
                while at >= 0:
                    spans.append((at, at + len(form)))
                    at = content.find(form, at + 1)
        spans.sort()
        return spans

    def begun(self, content: bytes) -> int:
        """How many bytes at the end begin a secret that may go on."""
        if self.longest < 2:
            return 0
        tail = content[1 - self.longest :]
        for first in self._first.finditer(tail):
            rest = tail[first.start() :]
            if any(len(rest) < len(form) and form.startswith(rest) for form in self._forms):
                return len(rest)
        return 0


class Masking:
    """The chunks of one stream, in order, without the secrets, wherever it was cut.

    What could be the beginning of a secret is held back until it is known to be none, or the
    stream ends. What was answered so far depends on the bytes that were fed, and not on their cuts.
    """

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        self._held = b""
        self._hidden = 0  # how much of what is held belongs to a secret that was told as stars

    @property
    def held(self) -> int:
        """How many bytes are held back: fewer than the longest secret has."""
        return len(self._held)

    def feed(self, chunk: bytes) -> bytes:
        """What is certain by now."""
        content = self._held + chunk if self._held else chunk
        # A secret that is not here yet as a whole begins here, or later: all before is certain.
        cut = len(content) - self._masks.begun(content)
        return self._tell(content, cut)

    def end(self) -> bytes:
        """What was held back when the stream ended."""
        return self._tell(self._held, len(self._held))

    def _tell(self, content: bytes, cut: int) -> bytes:
        spans = self._masks.spans(content)
        self._held = content[cut:]
        if not spans and not self._hidden:
            return content[:cut] if self._held else content
        told, self._hidden = _hidden(content, spans, cut, self._hidden)
        return told


def _hidden(content: bytes, spans: Iterable[_Span], cut: int, hidden: int) -> tuple[bytes, int]:
    """`content` up to `cut` without what lies in `spans`, and how much beyond the cut is hidden by
    those that begin before it. The first bytes, `hidden` in number, were told as stars before.
    """
    pieces: list[bytes] = []
    for start, end in spans:
        if start >= cut:
            break
        if start >= hidden:
            pieces += (content[hidden:start], _MASK)
        hidden = max(hidden, end)
    pieces.append(content[hidden:cut])
    return b"".join(pieces), max(hidden - cut, 0)


# ------------------------------------------------------------------ what a secret looks like


def is_maskable(secret: str) -> bool:
    """Whether it is long enough to be masked."""
    return any(len(line) >= MIN_CHARACTERS for line in _LINE_END.split(secret))


def _lines(secret: object) -> list[str]:
    if not isinstance(secret, str):
        raise SettingsInvalid(
            f"A secret to mask is a {type(secret).__name__}, and must be a text.",
            fix="Give its text, or leave it out.",
        )
    lines = [line for line in _LINE_END.split(secret) if len(line) >= MIN_CHARACTERS]
    if not lines:
        raise SettingsInvalid(
            f"A secret to mask has no line of {MIN_CHARACTERS} characters, and what is shorter "
            "would hide words that are none.",
            fix="Use a longer secret, or leave it out.",
        )
    if max(len(_encoded(line)[0]) for line in lines) > MAX_BYTES:
        raise SettingsInvalid(
            f"A secret to mask has more than {MAX_BYTES:,} bytes in one line.",
            fix="Name the part of it that must not be seen.",
        )
    return lines


def _encoded(text: str) -> tuple[bytes, str]:
    """A text's bytes, and how they become the same text again. Names of files and variables of the
    environment may hold bytes that are no UTF-8.
    """
    try:
        return text.encode("utf-8", "surrogateescape"), "surrogateescape"
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass"), "surrogatepass"


class _Look(NamedTuple):
    """What a secret looks like. `core`: a part that is the same in every form; where it is not,
    none of them is. `forms`: in a text; `in_json`: how these stand in a JSON text.
    """

    core: bytes
    forms: tuple[bytes, ...]
    in_json: tuple[bytes, ...]

    @classmethod
    def of(cls, secret: str) -> _Look:
        forms = tuple(sorted(_forms(secret)))
        inside = {form for each in forms for form in (each, *_in_json(each))}
        return cls(max(_CORE.findall(secret), key=len).encode(), forms, tuple(sorted(inside)))


def _forms(secret: str) -> set[bytes]:
    """What the secret may look like in a text."""
    content = _encoded(secret)[0]
    readable = content.decode("utf-8", "replace")
    ascii_json = json.dumps(secret)[1:-1]
    plain = {
        content,
        _escaped(readable),
        ascii_json.encode(),
        # PHP's way.
        ascii_json.replace("/", "\\/").encode(),
        repr(readable)[1:-1].encode(),
        ascii(readable)[1:-1].encode(),
        repr(content)[2:-1].encode(),
        # An address, as urllib and as browsers write it.
        quote(content, safe="").encode(),
        quote(content).encode(),
        quote(content, safe="!~*'()").encode(),
        quote_plus(content).encode(),
    }
    # JSON that is quoted within JSON, as in a log of requests.
    return plain | {_escaped(form.decode()) for form in plain if _is_text(form)}


def _in_json(form: bytes) -> tuple[bytes, ...]:
    """How a form stands in a JSON text."""
    if not _is_text(form):
        return (form,)
    return _escaped(form.decode()), json.dumps(form.decode())[1:-1].encode()


def _escaped(text: str) -> bytes:
    return orjson.dumps(text)[1:-1]


def _is_text(form: bytes) -> bool:
    try:
        form.decode()
    except UnicodeDecodeError:
        return False
    return True


def _mark(secret: str, salt: str) -> str:
    key = salt.encode()[:64]
    return hashlib.blake2b(_encoded(secret)[0], digest_size=12, key=key).hexdigest()


__all__ = ["MASK", "MAX_BYTES", "MIN_CHARACTERS", "Masking", "Masks", "is_maskable"]
