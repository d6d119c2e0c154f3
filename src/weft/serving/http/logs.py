"""The server's log: a JSON object a line, without users' texts unless they are asked for."""

import json
import logging
import sys
import time
import traceback
from typing import Any, TextIO

from weft.serving.errors import LOG

_OTHERS = ("uvicorn.error",)
"""Loggers of libraries whose lines stand among ours."""


class JsonLines(logging.Formatter):
    """A record as one line of JSON.

    Of an exception only its type and the places that it went through are written: its text may quote a user's.

    Args:
        texts: Whether texts are asked for, and what exceptions say with them.
    """

    def __init__(self, *, texts: bool = False) -> None:
        super().__init__()
        self._texts = texts

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; what `extra={"fields": {...}}` brings stands beside its message."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        own: dict[str, Any] = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        own |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            own["error"] = type(error).__name__
            own["at"] = [
                f"{at.filename}:{at.lineno}" for at in traceback.extract_tb(error.__traceback__)
            ]
            if self._texts:
                own["said"] = str(error)
        return json.dumps(own, default=str)


def log_to(stream: TextIO = sys.stderr, *, texts: bool = False) -> None:
    """Send the server's lines, and those of what it stands on, to a stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines(texts=texts))
    for name, level in ((LOG.name, logging.INFO), *((name, logging.WARNING) for name in _OTHERS)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level)
