"""How many replicas there are, and when there are more."""

import re

from pydantic import Field

from weft.config import Settings

_SPAN = re.compile(r"([1-9][0-9]{0,3})(?::([1-9][0-9]{0,3}))?")


class Scale(Settings):
    """Replicas by load."""

    least: int = Field(default=2, ge=1)
    """Always there."""
    most: int = Field(default=2, ge=1)
    """As many as come with load; `least` of them all the time where it is the same."""
    requests: float = Field(default=16, gt=0)
    """Under way and waiting, for each replica, that Ray Serve aims at."""
    most_requests: int = Field(default=32, ge=1)
    """Under way on one replica; more go to others, which then hold the expert too."""
    up_s: float = Field(default=10, ge=0)
    """Seconds of more load before there are more replicas."""
    down_s: float = Field(default=300, ge=0)
    """Seconds of less load before there are fewer."""
    over_s: float = Field(default=30, gt=0)
    """Seconds that the load is the mean of."""


def scale_of(said: str) -> Scale:
    """Replicas as somebody types them: `2`, or `1:4` for one to four by load.

    Raises:
        ValueError: If it is neither, or the second number is the smaller.
    """
    found = _SPAN.fullmatch(said)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if most < least:
        raise ValueError(
            f"--replicas is {said!r}, expected a number such as 2, or MIN:MAX such as 1:4, which grows with the load"
        )
    return Scale(least=least, most=most)
