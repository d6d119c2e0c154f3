"""The folder is the registry: a method, task or recipe exists because its file does.

`Registry("weft.methods.adapters", "weft.methods.adapters.contract:Adapter")` lists the Python files of a folder without
importing them and imports one, and the contract, when it is asked for; with `suffix=".yaml"` it does the same with YAML
files. A name that is not there is an error that suggests the nearest one; a file that fails to import raises, nothing
is skipped.
"""

import difflib
import importlib
import inspect
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Generic, TypeVar, cast

import yaml

Contract = TypeVar("Contract")

_MOST_LISTED = 40
_LONGEST_SHOWN = 60


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name nobody registered: what came, the nearest known name, the first of all known names."""
    known = sorted(known)
    near = difflib.get_close_matches(name[:_LONGEST_SHOWN], known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(one[:_LONGEST_SHOWN] for one in known[:_MOST_LISTED]) or "none"
    more = f" and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
    return f"no {kind} named {name[:_LONGEST_SHOWN]!r}.{hint} Known: {listed}{more}"


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
        self.kind = package.rsplit(".", 1)[-1].rstrip("s")
        self._added: dict[str, type[Contract]] = {}

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
        module, contract = importlib.import_module(f"{self.package}.{name}"), self.contract
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

    def read(self, name: str) -> dict[str, object]:
        """The content of the YAML file `name`."""
        return yaml.safe_load(self.file(name).read_text(encoding="utf-8"))
