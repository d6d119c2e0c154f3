"""Many experts of different kinds from one process, in one batch: shelf, queue, engine; HTTP stands on these."""

from weft.serving.engine import Answers, Engine
from weft.serving.settings import Limits, Options, Room
from weft.serving.shelf import Shelf

__all__ = ["Answers", "Engine", "Limits", "Options", "Room", "Shelf"]
