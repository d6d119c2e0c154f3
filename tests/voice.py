"""What a command put on stderr but for the lines that say it is still at work: how many is the pace of the machine."""

import re

STILL_AT_WORK = re.compile(r"^\w+ .*  \(\d+ s so far\)\n", re.MULTILINE)
"""A line of `weft.reporting.voice`."""


def without_voice(stderr: str) -> str:
    """The rest; empty where nothing else was said."""
    return STILL_AT_WORK.sub("", stderr)
