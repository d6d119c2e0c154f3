"""Sums and differences of models as text, to a number for each model: `base + 1.0*RUN + 1.0*('org/chat' - base)`.

Terms are collected before anything is computed, so what cancels out is not there: with the numbers above `base` counts
1 - 1 = 0, and the result is exactly the chat model and the run's change.
"""

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

LONGEST = 2000
"""Characters of an expression."""


@dataclass(frozen=True)
class _Sum:
    """A number, and how often each model counts."""

    number: float = 0.0
    models: Mapping[str, float] = field(default_factory=dict)

    def plus(self, other: "_Sum", sign: float) -> "_Sum":
        models = dict(self.models)
        for name, count in other.models.items():
            models[name] = models.get(name, 0.0) + sign * count
        return _Sum(self.number + sign * other.number, models)

    def times(self, number: float) -> "_Sum":
        return _Sum(
            number * self.number, {name: number * count for name, count in self.models.items()}
        )


def parse(text: str) -> dict[str, float]:
    """How often each model counts, in the order in which they appear; one that cancels out counts 0.

    Args:
        text: Names and paths joined by + - and brackets, each with a number before it or not. A name with other
            characters than letters, digits, `_`, `.` and `/` stands in quotes.

    Raises:
        ValueError: If it cannot be read, multiplies two models, or adds a number to one.
    """
    if len(text) > LONGEST:
        raise ValueError(f"the expression has {len(text)} characters; write at most {LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        at = f" at character {error.offset}" if isinstance(error, SyntaxError) else ""
        raise ValueError(
            f"{text!r} cannot be read{at}: write sums like base + 0.5*RUN, with names that hold other characters than "
            "letters, digits, _, . and / in quotes"
        ) from None
    found = _sum(tree.body)
    if found.number:
        raise ValueError(
            f"{text!r}: {found.number:g} stands alone, and a number cannot be added to models; multiply one by it"
        )
    if not found.models:
        raise ValueError(f"{text!r} names no model")
    return dict(found.models)


def _sum(node: ast.expr) -> _Sum:
    name = _name(node)
    if name is not None:
        return _Sum(models={name: 1.0})
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            if not math.isfinite(number):
                raise ValueError(f"{_shown(node)}: every number is a finite one")
            return _Sum(float(number))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=inner):
            return _sum(inner).times(-1.0 if isinstance(sign, ast.USub) else 1.0)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as sign, right=right):
            return _sum(left).plus(_sum(right), -1.0 if isinstance(sign, ast.Sub) else 1.0)
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div() as times, right=right):
            return _multiplied(node, _sum(left), _sum(right), by=isinstance(times, ast.Mult))
    raise ValueError(
        f"{_shown(node)} is none of +, -, *, / and names; put a name with other characters in quotes"
    )


def _multiplied(node: ast.expr, one: _Sum, other: _Sum, *, by: bool) -> _Sum:
    if not by:
        if other.models or not other.number:
            raise ValueError(f"{_shown(node)}: divide by a number that is not 0")
        return one.times(1 / other.number)
    if one.models and other.models:
        raise ValueError(
            f"{_shown(node)}: models are not multiplied with each other; give a number"
        )
    return other.times(one.number) if other.models else one.times(other.number)


def _name(node: ast.expr) -> str | None:
    """A model's name: in quotes, or a path of plain words."""
    match node:
        case ast.Constant(value=str(name)):
            return name
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=inner, attr=last):
            before = _name(inner)
            return None if before is None else f"{before}.{last}"
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            before, after = _name(left), _name(right)
            return None if before is None or after is None else f"{before}/{after}"
    return None


def _shown(node: ast.expr) -> str:
    return repr(ast.unparse(node)[:80])
