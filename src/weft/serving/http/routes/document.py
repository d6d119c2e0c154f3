"""`GET /docs`: the OpenAPI document as a page for people, made here; it loads nothing."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse

from weft.serving.http.security import page_policy

router = APIRouter()

_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 56rem; padding: 1rem; }
h2 { border-top: 1px solid; font-size: 1.1rem; margin-top: 2rem; padding-top: 1rem; }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
dl { margin: 0; } dd { margin: 0 0 .4rem 1.5rem; } nav ul { columns: 16rem; padding-left: 1.2rem; }
.type { opacity: .75; }
"""
_REFERENCE = "#/components/schemas/"


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The page."""
    page = page_of(request.app.openapi())
    return HTMLResponse(page, headers={"Content-Security-Policy": page_policy(style=_STYLE)})


def page_of(document: Mapping[str, Any]) -> str:
    """An OpenAPI document as HTML."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    links = "".join(
        f'<li><a href="#{_anchor(method, path)}"><code>{method} {escape(path)}</code></a></li>'
        for method, path, _ in operations
    )
    schemas = document["components"]["schemas"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1><p>{escape(document['info']['description'])}</p>",
        '<p>For programs: <a href="/openapi.json">/openapi.json</a>.</p>',
        f'<nav aria-label="Paths"><ul>{links}</ul></nav><main>',
    ]
    for method, path, operation in operations:
        parts += _operation(method, path, operation)
    parts += [piece for name, schema in sorted(schemas.items()) for piece in _schema(name, schema)]
    return "".join([*parts, "</main></body></html>\n"])


def _anchor(method: str, path: str) -> str:
    return escape(f"{method}{path}".replace("/", "-").replace("{", "").replace("}", ""))


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{_anchor(method, path)}"><code>{method} {escape(path)}</code></h2>'
    yield f"<p>{escape(operation.get('description', ''))}</p><dl>"
    for own in operation.get("parameters", ()):
        said = escape(own.get("description", ""))
        yield f"<dt><code>{escape(own['name'])}</code> ({own['in']}) {_type(own['schema'])}</dt><dd>{said}</dd>"
    if "requestBody" in operation:
        yield f"<dt>body</dt><dd>{_content(operation['requestBody'])}</dd>"
    refused = []
    for status, answer in sorted(operation["responses"].items()):
        if status.startswith(("4", "5")):
            refused.append(status)
        else:
            yield f"<dt>{status}</dt><dd>{_content(answer) or escape(answer['description'])}</dd>"
    if refused:
        yield f'<dt>{", ".join(refused)}</dt><dd><a href="#Refusal"><code>Refusal</code></a></dd>'
    yield "</dl>"


def _content(answer: Mapping[str, Any]) -> str:
    return ", ".join(_type(own.get("schema", {})) for own in answer.get("content", {}).values())


def _schema(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{escape(name)}"><code>{escape(name)}</code></h2>'
    yield f"<p>{escape(schema.get('description', ''))}</p><dl>"
    needed = schema.get("required", ())
    for field, own in schema.get("properties", {}).items():
        must = "" if field in needed else ", optional"
        said = escape(own.get("description", ""))
        yield f"<dt><code>{escape(field)}</code> {_type(own)}{must}</dt><dd>{said}</dd>"
    yield "</dl>"


def _type(schema: Mapping[str, Any]) -> str:
    """What values of a schema are, in HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(_REFERENCE))
        return f'<a href="#{name}"><code>{name}</code></a>'
    several = schema.get("anyOf") or schema.get("oneOf")
    if several:
        return " or ".join(map(_type, several))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(repr(value))}</code>" for value in values)
    kind = schema.get("type", "anything")
    inner = f" of {_type(schema['items'])}" if "items" in schema else ""
    return f'<span class="type">{escape(str(kind))}{inner}</span>'
