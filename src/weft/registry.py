"""The folder is the registry: a method, task or recipe exists because its file does.

`Registry("weft.methods.adapters", Adapter)` lists the Python files of a folder without importing them and imports
one when it is asked for; `Registry("weft.methods.recipes", suffix=".yaml")` does the same with YAML files. A
name that is not there is an error that suggests the nearest one; a file that fails to import raises, nothing
is skipped.
"""

import difflib
import importlib
import inspect
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Generic, TypeVar

import yaml

Contract = TypeVar("Contract")

_MOST_LISTED = 1500
"""Characters of the list of known names in an error: a file of others may have any number of columns."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name nobody registered: what came, the nearest known name, all known names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(known) or "none"
    listed = listed if len(listed) <= _MOST_LISTED else f"{listed[:_MOST_LISTED]} ..."
    return f"no {kind} named {name!r:.80}.{hint} Known: {listed}"


class Registry(Generic[Contract]):
    """The files of one package folder, by name.

    Args:
        package: Dotted name of the folder, e.g. `weft.methods.adapters`.
        contract: The class whose one concrete subclass each Python file defines; None for data files.
        suffix: Ending of the files that count.
    """

    def __init__(
        self, package: str, contract: type[Contract] | None = None, suffix: str = ".py"
    ) -> None:
        self.package = package
        self.contract = contract
        self.suffix = suffix
        self.kind = package.rsplit(".", 1)[-1].rstrip("s")
        self._added: dict[str, type[Contract]] = {}

    def names(self) -> list[str]:
        """All registered names, sorted; nothing is imported."""
        stems = {
            item.name.removesuffix(self.suffix)
            for item in resources.files(self.package).iterdir()
            if item.name.endswith(self.suffix)
        }
        hidden = {"__init__", "contract"} if self.suffix == ".py" else set()
        return sorted((stems - hidden) | set(self._added))

    def file(self, name: str) -> Traversable:
        """The file that defines `name`.

        Raises:
            KeyError: If no such file exists; the message names the nearest one.
        """
        if name not in self.names():
            raise KeyError(unknown(self.kind, name, self.names()))
        return resources.files(self.package) / f"{name}{self.suffix}"

    def add(self, name: str, contract: type[Contract]) -> None:
        """Register a class from outside the package under `name` (a third party's method)."""
        if name in self.names():
            raise ValueError(f"{self.kind} {name!r} is registered already; choose another name")
        self._added[name] = contract

    def load(self, name: str) -> type[Contract]:
        """The class that the file `name` defines.

        Raises:
            KeyError: If there is no such file.
            TypeError: If the file does not define exactly one concrete `contract`.
        """
        if name in self._added:
            return self._added[name]
        self.file(name)
        module = importlib.import_module(f"{self.package}.{name}")
        found = [
            value
            for value in vars(module).values()
            if inspect.isclass(value)
            and self.contract is not None
            and issubclass(value, self.contract)
            and value.__module__ == module.__name__
            and not inspect.isabstract(value)
        ]
        if len(found) != 1:
            raise TypeError(f"{module.__name__} must define one {self.contract}, found {found}")
        return found[0]

    def read(self, name: str) -> dict[str, object]:
        """The content of the YAML file `name`."""
        return yaml.safe_load(self.file(name).read_text(encoding="utf-8"))
