"""The folder is the registry: a method, task or recipe exists because its file does.

`Registry("weft.methods.adapters", "weft.methods.adapters.contract:Adapter")` lists the Python files of a folder without
importing them and imports one, and the contract, when it is asked for; with `suffix=".yaml"` it does the same with YAML
files. A name that is not there is an error that suggests the nearest one; a file that fails to import raises, nothing
is skipped.

An installed package adds a method by an entry point of the group `weft.<folder>`: the class, the module that defines
it, or, where the folder is one of YAML files, such a file of the package:

    [project.entry-points."weft.adapters"]
    mine = "my_package.mine:Mine"
    [project.entry-points."weft.recipes"]
    mine = "my_package:mine.yaml"

Its name is read from the package's metadata; the package itself is imported when the method is asked for.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

import yaml

Contract = TypeVar("Contract")

_MOST_LISTED = 40
_LONGEST_SHOWN = 60
_SHORTEST_BEGINNING = 3
_BROKEN = (
    ImportError, AttributeError, SyntaxError, NameError, TypeError, ValueError, LookupError, OSError,
    RuntimeError,
)  # fmt: skip
"""What importing a package of somebody else's raises, where it is broken."""


@cache
def _installed(path: tuple[str, ...], group: str) -> tuple[EntryPoint, ...]:
    """What the packages on a search path bring for a group; looking through their metadata takes a while."""
    return tuple(entry_points(group=group))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name nobody registered: what came, the nearest known name, the first of all known names."""
    known = sorted(known)
    # Who types a beginning means the rest of it: `all` is all-linear, though more letters of `value` are in its order.
    begun = [one for one in known if len(name) >= _SHORTEST_BEGINNING and one.startswith(name)]
    near = begun or difflib.get_close_matches(name[:_LONGEST_SHOWN], known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(one[:_LONGEST_SHOWN] for one in known[:_MOST_LISTED]) or "none"
    more = f" and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
    return f"no {kind} named {name[:_LONGEST_SHOWN]!r}.{hint} Known: {listed}{more}"


def said_by(error: BaseException) -> str:
    """What an error says; a KeyError's own text puts quotes around it."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


class Registry(Generic[Contract]):
    """The files of one package folder, by name.

    Args:
        package: Dotted name of the folder, e.g. `weft.methods.adapters`.
        contract: The class whose one concrete subclass each Python file defines, or where it is (`module:Class`), so
            that names can be listed without importing it; None for data files.
        suffix: Ending of the files that count.
    """

    def __init__(
        self, package: str, contract: type[Contract] | str | None = None, suffix: str = ".py"
    ) -> None:
        self.package = package
        self._contract = contract
        self.suffix = suffix
        folder = package.rsplit(".", 1)[-1]
        self.kind = folder.rstrip("s")
        self.group = f"weft.{folder}"
        """The entry points by which packages add to it."""
        self._added: dict[str, type[Contract]] = {}
        self._included: dict[str, Path] = {}

    @property
    def contract_place(self) -> str:
        """Where the contract is defined: `module:Class`; nothing is imported. Empty for data files."""
        if self._contract is None or isinstance(self._contract, str):
            return self._contract or ""
        return f"{self._contract.__module__}:{self._contract.__qualname__}"

    @property
    def contract(self) -> type[Contract] | None:
        """The class that each Python file keeps."""
        if isinstance(self._contract, str):
            module, _, name = self._contract.partition(":")
            self._contract = cast(type[Contract], getattr(importlib.import_module(module), name))
        return self._contract

    def names(self) -> list[str]:
        """All registered names, sorted; nothing is imported.

        Raises:
            ValueError: If a package brings a name that is taken.
        """
        brought = self._brought()
        for name in brought:
            self._refuse_conflict(name)
        return sorted(self._own() | set(self._added) | set(self._included) | set(brought))

    def file(self, name: str) -> Traversable:
        """The file that defines `name`, which is not imported.

        Raises:
            KeyError: If no such file exists; the message names the nearest one.
            ValueError: If the package that brings it is broken.
        """
        self._refuse_conflict(name)
        if name in self._added:
            return Path(inspect.getfile(self._added[name]))
        if name in self._included:
            return self._included[name]
        if name in self._own():
            return resources.files(self.package) / f"{name}{self.suffix}"
        if name not in self._brought():
            raise KeyError(unknown(self.kind, name, self.names()))
        point = self._brought()[name][0]
        try:
            if self.contract is None:
                return resources.files(point.module) / point.attr
            spec = find_spec(point.module)
            if spec is None or spec.origin is None:
                raise ModuleNotFoundError(f"No module named {point.module!r}")
            return Path(spec.origin)
        except _BROKEN as error:
            raise self._broken(point, error) from error

    def add(self, name: str, contract: type[Contract]) -> None:
        """Register a class from outside the package under `name` (a third party's method)."""
        if name in self.names():
            raise ValueError(f"{self.kind} {name!r} is registered already; choose another name")
        self._added[name] = contract

    @contextmanager
    def including(self, folder: Path) -> Iterator[None]:
        """Inside the block the files of a folder of the user's own are registered, under their names.

        Raises:
            ValueError: If a name is taken.
        """
        before = dict(self._included)
        try:
            for path in sorted(folder.glob(f"*{self.suffix}")):
                if path.stem in self.names():
                    raise ValueError(
                        f"{path}: {self.kind} {path.stem!r} is registered already; rename the file"
                    )
                self._included[path.stem] = path.resolve()
            yield
        finally:
            self._included = before

    def included(self, name: str) -> Path | None:
        """The user's own file that a name stands for; None where it is another's."""
        return self._included.get(name)

    def load(self, name: str) -> type[Contract]:
        """The class that the file, or the package, of `name` defines.

        Raises:
            KeyError: If there is no such file.
            TypeError: If the file does not define exactly one concrete `contract`.
            ValueError: If a package brings it and is broken, or brings a name that is taken.
        """
        self._refuse_conflict(name)
        if name in self._added:
            return self._added[name]
        if name in self._brought():
            return self._loaded(self._brought()[name][0])
        self.file(name)
        return self._only(importlib.import_module(f"{self.package}.{name}"))

    def read(self, name: str) -> dict[str, object]:
        """The content of the YAML file `name`.

        Raises:
            KeyError: If there is no such file.
            ValueError: If a package names a file that it does not have.
        """
        file = self.file(name)
        brought = self._brought().get(name)
        if brought and not file.is_file():
            raise self._broken(brought[0], FileNotFoundError(f"it has no file {brought[0].attr}"))
        return yaml.safe_load(file.read_text(encoding="utf-8"))

    def _own(self) -> set[str]:
        stems = {
            item.name.removesuffix(self.suffix)
            for item in resources.files(self.package).iterdir()
            if item.name.endswith(self.suffix)
        }
        return stems - ({"__init__", "contract"} if self.suffix == ".py" else set())

    def _brought(self) -> dict[str, list[EntryPoint]]:
        """By name what installed packages bring; more than one where they are at odds."""
        found: dict[str, list[EntryPoint]] = {}
        for point in _installed(tuple(sys.path), self.group):
            found.setdefault(point.name, []).append(point)
        return found

    def _refuse_conflict(self, name: str) -> None:
        points = self._brought().get(name, [])
        if not points:
            return
        others = [_package(point) for point in points[1:]]
        if name in self._own():
            others.append("weft itself")
        elif name in self._added:
            others.append("this program")
        if others:
            raise ValueError(
                f"{_package(points[0])} brings {self.kind} {name!r}, and so does {' and '.join(others)}: "
                "uninstall one, or ask its author for another name"
            )

    def _loaded(self, point: EntryPoint) -> type[Contract]:
        try:
            found: Any = point.load()
            if inspect.ismodule(found):
                found = self._only(found)
            if (
                self.contract is None
                or not inspect.isclass(found)
                or not issubclass(found, self.contract)
                or inspect.isabstract(found)
            ):
                wanted = self.contract.__name__ if self.contract else "file"
                raise TypeError(f"{point.value} is no concrete {wanted}")
        except _BROKEN as error:
            raise self._broken(point, error) from error
        return found

    def _only(self, module: ModuleType) -> type[Contract]:
        """The one concrete class of the contract that a module defines."""
        contract = self.contract
        found = [
            value
            for value in vars(module).values()
            if inspect.isclass(value)
            and contract is not None
            and issubclass(value, contract)
            and value.__module__ == module.__name__
            and not inspect.isabstract(value)
        ]
        if len(found) != 1:
            raise TypeError(f"{module.__name__} must define one {contract}, found {found}")
        return found[0]

    def _broken(self, point: EntryPoint, error: BaseException) -> ValueError:
        return ValueError(
            f"{_package(point)} brings {self.kind} {point.name!r} as {point.value}, which does not load: "
            f"{type(error).__name__}: {str(error)[:200]}; update that package, or uninstall it"
        )


def _package(point: EntryPoint) -> str:
    """The package an entry point is of, for sentences."""
    return f"package {point.dist.name} {point.dist.version}" if point.dist else "a package"
