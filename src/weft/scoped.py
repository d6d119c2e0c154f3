"""A context variable that holds a value inside a block and what it held before outside."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Value = TypeVar("Value")


@contextmanager
def scoped(variable: ContextVar[Value], value: Value) -> Iterator[Value]:
    """`variable` is `value` inside the block, in this thread or task alone."""
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)
