"""What a file says of itself, without the heavy imports at its top.

A method's page, its settings and a few plain attributes are asked for far more often than the method is run, and
importing its file imports torch, which takes seconds. Here a file is parsed, and of its statements only those are run
that an asked-for name stands on: a settings class, its base classes, the constants in its defaults. They are the file's
own statements, so what they make is what an import would make; where they stand on torch, torch is imported, and the
answer is late but not different. A module that has been imported already is asked itself.
"""

import ast
import importlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "weft."
ROOT = Path(__file__).parents[1]
"""The package's folder."""


@cache
def source_of(module: str) -> "Source":
    """The file of a module of this package, parsed once.

    Raises:
        ModuleNotFoundError: If there is none.
    """
    path = file_of(module)
    if path is None:
        raise ModuleNotFoundError(f"no module named {module!r}", name=module)
    return Source(module, path)


class Source:
    """One file, parsed; its names as attributes, made when they are first asked for.

    Args:
        module: Its dotted name.
        path: Where it is.
    """

    def __init__(self, module: str, path: Path) -> None:
        self._module = module
        self._path = path
        self._tree = ast.parse(path.read_text(encoding="utf-8"))
        self._bound = {name: node for node in self._tree.body for name in _binds(node)}
        self._made: dict[str, Any] = {"__name__": module, "__file__": str(path)}

    @property
    def page(self) -> str:
        """The module's docstring."""
        return ast.get_docstring(self._tree) or ""

    def kept(self, contract: str) -> "Kept":
        """The one class of this file that keeps a contract, as `Registry.load` finds it.

        Args:
            contract: The contract's name, as `module:Class`.

        Raises:
            TypeError: If there is not exactly one.
        """
        module, _, name = contract.partition(":")
        own = [node.name for node in self._tree.body if isinstance(node, ast.ClassDef)]
        keeping = [one for one in own if (module, name) in set(self._lines(one))]
        # A class that another one of the file builds on is a part of it.
        parts = {base for one in keeping for at, base in self._lines(one) if at == self._module}
        found = [one for one in keeping if one not in parts]
        if len(found) != 1:
            raise TypeError(f"{self._module} must define one {name}, found {found}")
        return Kept(self, found[0])

    def _lines(self, name: str) -> Iterator[tuple[str, str]]:
        """The classes that a class of this file is made from, as module and name."""
        node = self._bound.get(name)
        if not isinstance(node, ast.ClassDef):
            return
        for base in node.bases:
            at = self._place(base)
            if at is not None:
                yield at
                if at[0].startswith(PACKAGE):
                    yield from self._other(at[0])._lines(at[1])

    def _other(self, module: str) -> "Source":
        return self if module == self._module else source_of(module)

    def _place(self, expression: ast.expr) -> tuple[str, str] | None:
        """Where a base class that is written as a name, or as a module's attribute, is defined."""
        if isinstance(expression, ast.Subscript):
            expression = expression.value
        if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name):
            module = _imported(self._bound.get(expression.value.id), expression.value.id)
            return (".".join(filter(None, module)), expression.attr) if module else None
        if not isinstance(expression, ast.Name):
            return None
        node = self._bound.get(expression.id)
        if isinstance(node, ast.ClassDef):
            return self._module, expression.id
        return _imported(node, expression.id)

    def __getattr__(self, name: str) -> Any:
        if self._module in sys.modules:
            return getattr(sys.modules[self._module], name)
        if name not in self._made:
            if name not in self._bound:
                raise AttributeError(f"{self._path} has no {name!r} at its top level")
            self._run(self._bound[name], name)
        return self._made[name]

    def _run(self, node: ast.stmt, name: str) -> None:
        place = _imported(node, name)
        if place is None:
            self._made |= {one: getattr(self, one) for one in self._needed(node, name)}
            code = compile(ast.Module([node], []), str(self._path), "exec")
            exec(code, self._made)
        else:
            self._made[name] = _looked_up(*place)

    def _needed(self, node: ast.stmt, name: str) -> list[str]:
        names = {
            one.id
            for one in ast.walk(node)
            # A setting may have the name of something imported; only what is read is needed.
            if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)
        }
        return sorted(one for one in names if one in self._bound and one != name)

    def evaluated(self, expression: ast.expr) -> Any:
        """The value of an expression of this file."""
        names = self._needed(ast.Expr(expression), "")
        code = compile(ast.Expression(expression), str(self._path), "eval")
        return eval(code, self._made | {name: getattr(self, name) for name in names})


class Kept:
    """A class of a file as it is written there.

    Args:
        source: The file.
        name: The class.
    """

    def __init__(self, source: Source, name: str) -> None:
        self.source = source
        self.name = name
        node = source._bound[name]
        assert isinstance(node, ast.ClassDef)
        self._node = node

    @property
    def page(self) -> str:
        """The class's docstring."""
        return ast.get_docstring(self._node) or ""

    def attribute(self, name: str) -> Any:
        """What the class, or the nearest class that it is made from, sets `name` to in its body.

        Raises:
            AttributeError: If none does.
        """
        for node in self._node.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(at, ast.Name) and at.id == name for at in targets):
                    return self.source.evaluated(node.value)
        for base in self._node.bases:
            at = self.source._place(base)
            if at is not None and at[0].startswith(PACKAGE):
                try:
                    return Kept(self.source._other(at[0]), at[1]).attribute(name)
                except AttributeError:
                    continue
        raise AttributeError(f"{self.name} sets no {name!r}")


def file_of(module: str) -> Path | None:
    """The file of a module of this package, found by its name alone; to ask Python would import what it lies in."""
    package, *parts = module.split(".")
    if package != PACKAGE.rstrip("."):
        return None
    place = ROOT.joinpath(*parts)
    found = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
    return found[0] if found else None


def _binds(node: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top of a file gives a value."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (one.asname or one.name.partition(".")[0] for one in node.names)
    elif isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (at.id for at in targets if isinstance(at, ast.Name))


def _imported(node: ast.stmt | None, name: str) -> tuple[str, str] | None:
    """Module and name in it that an import binds to `name`; the name is empty where it is the module itself."""
    if isinstance(node, ast.ImportFrom):
        one = next(one for one in node.names if (one.asname or one.name) == name)
        inner = f"{node.module}.{one.name}"
        if file_of(inner) is not None:
            return inner, ""
        return str(node.module), one.name
    if isinstance(node, ast.Import):
        one = next(one for one in node.names if (one.asname or one.name.partition(".")[0]) == name)
        return one.name if one.asname else name, ""
    return None


def _looked_up(module: str, name: str) -> Any:
    own = module.startswith(PACKAGE) and module not in sys.modules
    held = source_of(module) if own else importlib.import_module(module)
    return getattr(held, name) if name else held
