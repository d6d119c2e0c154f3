"""Lexical metrics of written text, one a file; found by its name."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.answering.metrics.contract import Metric

metrics: "Registry[Metric]" = Registry(
    "weft.answering.metrics", "weft.answering.metrics.contract:Metric"
)
