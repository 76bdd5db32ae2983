"""`/docs`: the endpoints as a page, made from the OpenAPI document.

It is whole as it is sent: no script, and no request to anywhere. Somebody who runs this
offline, or behind a strict proxy, sees the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from html import escape
from typing import Any, Final
from urllib.parse import quote

from fastapi import Request, Response

_Json = dict[str, Any]

_STYLE: Final = """\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: .35rem 0; }
details { border-top: 1px solid #8886; }
details > :not(summary) { margin-left: 1rem; }
code, pre { font: .9em/1.5 ui-monospace, monospace; }
pre { background: #8882; padding: .6rem; overflow-x: auto; white-space: pre-wrap; }
table { border-collapse: collapse; }
td { padding: .15rem 1rem .15rem 0; vertical-align: top; }
.method { display: inline-block; min-width: 4.2rem; font-weight: 700; }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    "cache-control": "no-cache",
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def response(document: _Json, request: Request) -> Response:
    """The page; its addresses carry the prefix the app is mounted under."""
    prefix = str(request.scope.get("root_path", "")).rstrip("/")
    return Response(page(document, prefix), 200, _HEADERS, "text/html; charset=utf-8")


def page(document: _Json, prefix: str = "") -> str:
    """The page of an OpenAPI document."""
    title = escape(document["info"]["title"])
    said = escape(document["info"].get("description", ""))
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>\n<p>{said}</p>\n"
        f'<p><a href="{escape(quote(prefix))}/openapi.json">openapi.json</a></p>\n'
        f"{''.join(_endpoints(document, prefix))}</html>\n"
    )


def _endpoints(document: _Json, prefix: str) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield (
                f'<details><summary><span class="method">{method.upper()}</span> '
                f"<code>{escape(prefix + path)}</code> {escape(operation.get('summary', ''))}"
                f"</summary>\n<p>{escape(operation.get('description', ''))}</p>\n"
                f"{_parameters(operation)}{_body(operation, document)}{_responses(operation)}"
                "</details>\n"
            )


def _parameters(operation: _Json) -> str:
    rows = (
        f"<tr><td><code>{escape(parameter['name'])}</code><td>{parameter['in']}"
        f"<td><code>{escape(_kind(parameter['schema']))}</code>"
        f"<td>{escape(parameter.get('description', ''))}\n"
        for parameter in operation.get("parameters", ())
    )
    return _table("Parameters", "".join(rows))


def _kind(schema: _Json) -> str:
    """A schema in a few words."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(_kind(choice) for choice in schema["anyOf"] if choice != _NULL)
    bounds = [f"{schema[bound]:g}" for bound in ("minimum", "maximum") if bound in schema]
    return " ".join(filter(None, (str(schema.get("type", "any")), "…".join(bounds))))


_NULL: Final = {"type": "null"}


def _body(operation: _Json, document: _Json) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    shown = (
        f"<p>Body, <code>{escape(media)}</code>, for example</p>\n"
        f"<pre>{escape(json.dumps(_example(given['schema'], document), indent=2))}</pre>\n"
        for media, given in content.items()
    )
    return "".join(shown)


def _example(schema: _Json, document: _Json) -> Any:
    """A value that fits: the examples of the fields, put together."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _example(document["components"]["schemas"][name], document)
    if "examples" in schema:
        return schema["examples"][0]
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], document)
    if schema.get("type") == "array":
        return [_example(schema["items"], document)]
    fields = schema.get("properties", {})
    return {name: _example(field, document) for name, field in fields.items()}


def _responses(operation: _Json) -> str:
    rows = (
        f"<tr><td>{escape(status)}<td>{escape(told['description'])}"
        f"<td><code>{escape(', '.join(told.get('content', ())))}</code>\n"
        for status, told in operation["responses"].items()
    )
    return _table("Answers", "".join(rows))


def _table(caption: str, rows: str) -> str:
    return f"<p>{caption}</p>\n<table>\n{rows}</table>\n" if rows else ""
