"""What the study published: every figure as printed, with its address, and where the figures do not agree.

Emmanuel and Melo, Low-Rank Transformations of the Syntactic-Semantic Space in Multiple Natural Language Tasks. The
figures are in `published.yaml`.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from importlib import resources
from typing import Annotated, Any, Literal, NamedTuple, Self

import yaml
from pydantic import AfterValidator, Field, model_validator

from weft.config import Settings, validate
from weft.registry import unknown


class Address(NamedTuple):
    """Where a figure stands; None where the table makes no difference."""

    table: int
    base: str | None
    method: str | None
    task: str | None
    metric: str

    def __str__(self) -> str:
        return "/".join("-" if part is None else str(part) for part in self)


@dataclass(frozen=True)
class Figure:
    """One published number."""

    address: Address
    printed: str
    unit: str
    machine: str | None

    @property
    def value(self) -> Decimal:
        return Decimal(self.printed)


def _number(text: str) -> str:
    try:
        Decimal(text)
    except InvalidOperation:
        raise ValueError("expected a number in quotes") from None
    return text


Printed = Annotated[str, AfterValidator(_number)]
"""A number as printed, with the digits it was given."""


class Column(Settings):
    """What a table says of every row."""

    metric: str
    task: str | None = None
    unit: str = ""
    """`s`, `%`, `M` (millions), or nothing."""


class Row(Settings):
    """One line of a table."""

    base: str | None = None
    method: str | None = None
    task: str | None = None
    machine: str | None = None
    """The GPU."""
    values: tuple[Printed, ...]


class Table(Settings):
    """One table of the study."""

    number: int
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _full(self) -> Self:
        if any(len(row.values) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.number}: a row must have {len(self.columns)} values")
        return self


class Claim(Settings):
    """Something the study says of its figures."""

    says: str
    bound: float
    """Share of the score, ratio of the time, or USD."""
    share: float | None = None
    """Most parameters it may take, of the base's."""


class Common(Settings):
    """What holds for all runs of the study, beside its table 1."""

    targets: list[str]
    early_stopping: dict[str, int]
    """Patience in epochs by task."""
    early_stopping_on: Literal["score", "loss"]


class Reconstruction(Settings):
    """Settings under which the published counts of mixtures come out."""

    experts: int = Field(ge=1)
    settings: dict[str, dict[str, Any]]
    """Of X-LoRA, by base."""
    says: str


class Human(Settings):
    """Scores of people."""

    source: str
    scores: dict[str, dict[str, Printed]]
    """In percent, by task and metric."""


class Study(Settings):
    """All that was published."""

    title: str
    authors: tuple[str, ...]
    bases: dict[str, str]
    methods: dict[str, str]
    tasks: dict[str, str]
    settings: Common
    human: Human
    claims: dict[str, Claim]
    reconstruction: Reconstruction
    tables: tuple[Table, ...]

    def figures(self) -> Iterator[Figure]:
        """Every figure of the tables, row by row."""
        for table in self.tables:
            for row in table.rows:
                for column, printed in zip(table.columns, row.values, strict=True):
                    task = column.task or row.task
                    address = Address(table.number, row.base, row.method, task, column.metric)
                    yield Figure(address, printed, column.unit, row.machine)

    def figure(self, address: Address) -> Figure:
        """One figure.

        Raises:
            KeyError: If nothing was published there; names the nearest address.
        """
        found = {figure.address: figure for figure in self.figures()}
        if address not in found:
            raise KeyError(unknown("published figure", str(address), map(str, found)))
        return found[address]


@functools.cache
def published() -> Study:
    """The study."""
    text = (resources.files("weft.reproduction") / "published.yaml").read_text(encoding="utf-8")
    return validate(Study, yaml.safe_load(text), "published.yaml")


def uneven_times(study: Study) -> dict[Address, str]:
    """Where seconds, divided by epochs and rounded as printed, are not the printed seconds per epoch."""
    found = {}
    for figure in study.figures():
        if figure.address.metric != "seconds_per_epoch":
            continue
        seconds, epochs = (
            study.figure(figure.address._replace(metric=metric)).value
            for metric in ("seconds", "epochs")
        )
        own = (seconds / epochs).quantize(figure.value, rounding=ROUND_HALF_UP)
        if own != figure.value:
            found[figure.address] = (
                f"{seconds} s in {epochs} epochs are {own} s per epoch, {figure.printed} is printed"
            )
    return found


def slower_with_lora(study: Study) -> dict[Address, str]:
    """Where LoRA took longer than full fine-tuning, in all or for an epoch."""
    found = {}
    for figure in study.figures():
        own = figure.address
        if own.method != "lora" or own.metric not in ("seconds", "seconds_per_epoch"):
            continue
        full = study.figure(own._replace(method="full"))
        if figure.value > full.value:
            found[own] = f"LoRA took {figure.printed} s, full fine-tuning {full.printed} s"
    return found
