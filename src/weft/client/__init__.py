"""Asking a server of weft from Python: `weft.Client`, and `weft.AsyncClient` for who has an event loop."""

from importlib.util import find_spec

_NEEDED = "httpx"

if find_spec(_NEEDED) is None:
    raise ModuleNotFoundError(
        f"asking a server needs {_NEEDED}: pip install 'weft[serve]'", name=_NEEDED
    )
