"""Asking a server of weft from Python: `weft.Client`, and `weft.AsyncClient` for who has an event loop."""
