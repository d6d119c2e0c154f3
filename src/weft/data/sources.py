"""Where a set's rows come from: a folder with its files, or the hub.

Both give the same thing: rows in their own columns, each with its place, and the map from a task's
columns to theirs.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from weft.config import Split
from weft.data.formats import FORMATS, format_of, read_rows, with_class_names
from weft.data.layout import Layout, Placed
from weft.data.memory import saved_rows
from weft.registry import unknown
from weft.tasks.contract import TaskSpec

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "val", "dev"),
    "test": ("test",),
}
"""What files call each split."""

_MOST_LISTED = 20
_WITHOUT = {
    "validation": ", or train with `training.evaluate_on: holdout`, which scores on rows held out of train"
}
"""What to do without a split."""


def split_rows(
    spec: TaskSpec, split: Split, folder: Path | None
) -> tuple[Iterator[Placed], dict[str, str]]:
    """The rows of one split, and the column in them by canonical column.

    Args:
        spec: The set.
        split: Which part.
        folder: Where its files are, as published, as the hub keeps them (parquet) or as
            `datasets` saves them; None asks the hub.

    Raises:
        ValueError: If the split is not there or, while iterating, if a file is malformed.
    """
    if folder is None:
        return _from_hub(spec, split), hub_columns(spec)
    named = [spec.files[split]] if split in spec.files else SPLIT_NAMES[split]
    saved = saved_rows(folder, named) if folder.is_dir() else None
    if saved is not None:
        return saved, hub_columns(spec)
    form, paths = find_files(spec, split, folder)
    as_on_hub = form == "parquet" and spec.format != "parquet"
    layout = layout_of(spec)
    rows = (row for path in paths for row in read_rows(path, form, layout))
    return rows, hub_columns(spec) if as_on_hub else spec.columns


def layout_of(spec: TaskSpec) -> Layout:
    """What the set says of its files' form."""
    numbers = [name for name in spec.columns.values() if re.fullmatch(r"-?\d+", name)]
    header = None if spec.header is None else tuple(spec.header)
    return Layout(header, spec.quotes, spec.comments, tuple(numbers))


def hub_columns(spec: TaskSpec) -> dict[str, str]:
    """Column on the hub by canonical column."""
    return {**spec.columns, **(spec.hub.columns if spec.hub else {})}


def _from_hub(spec: TaskSpec, split: Split) -> Iterator[Placed]:
    from datasets import load_dataset  # slow to import; only the hub wants it
    from datasets.exceptions import DatasetsError

    hub = spec.hub
    if hub is None:
        raise ValueError(f"{spec.name}: not on the hub; give `data: FOLDER` with the set's files")
    try:
        dataset = load_dataset(hub.path, hub.config, split=split, revision=hub.revision)
    except ConnectionError as error:
        raise ValueError(
            f"{spec.name}: the hub could not be reached for {hub.path!r} ({error}); "
            "give `data: FOLDER` with the set's files"
        ) from error
    except (OSError, ValueError, DatasetsError) as error:
        raise ValueError(
            f"{spec.name}: the hub gave no {split} split of {hub.path!r}, config {hub.config!r}: "
            f"{error}; give `data: FOLDER` with the set's files"
        ) from error
    rows = with_class_names(map(dict, dataset), dataset.features, f"{hub.path} {split}")
    for number, row in enumerate(rows):
        yield row, f"{hub.path} {split}: row {number}"


def find_files(spec: TaskSpec, split: Split, folder: Path) -> tuple[str, list[Path]]:
    """The format and the files of one split; several only where parquet is kept in parts.

    `spec.files` decides where it names the split. Otherwise a file counts if its name, without the
    format's ending, is the split's (train / validation, val, dev / test); else if it ends with one
    (`emerging.dev`, `wnut17train`), with at most a version behind it (`train-v1.1`); else parquet,
    in the folder or one folder deeper.

    Raises:
        ValueError: If there is no such file, or more than one.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; `data` is the folder with the set's files")
    if spec.format is not None and spec.format not in FORMATS:
        raise ValueError(f"{spec.name}: {unknown('format', spec.format, FORMATS)}")
    if split in spec.files:
        path = folder / spec.files[split]
        if not path.is_file():
            raise ValueError(
                f"{folder}: no file {spec.files[split]!r} for the {split} split; "
                f"the folder holds: {_listing(folder)}"
            )
        return spec.format or format_of(path), [path]
    names = SPLIT_NAMES[split]
    forms = [spec.format] if spec.format else list(FORMATS)
    endings = list(
        dict.fromkeys(e for form in forms if form != "parquet" for e in FORMATS[form].endings)
    )
    stems = [
        (path.name.lower().removesuffix(ending), path)
        for path in sorted(folder.iterdir())
        for ending in endings
        if path.name.lower().endswith(ending) and path.is_file()
    ]
    longer = re.compile(rf"(.*[^a-z])?({'|'.join(names)})(-v\d[\d.]*)?")
    found = [path for stem, path in stems if stem in names]
    found = found or [path for stem, path in stems if longer.fullmatch(stem)]
    if len(found) > 1:
        raise ValueError(_ambiguous(folder, split, [path.name for path in found]))
    if found:
        return spec.format or format_of(found[0]), found
    parts = _parquet_parts(spec, split, folder)
    if parts:
        return "parquet", parts
    raise ValueError(
        f"{folder}: no file for the {split} split; looked for {' or '.join(names)} with "
        f"{', '.join([*endings, '.parquet'])}; the folder holds: {_listing(folder)}. "
        f"Name the file in the task's `files: {{{split}: NAME}}`{_WITHOUT.get(split, '')}"
    )


def _parquet_parts(spec: TaskSpec, split: Split, folder: Path) -> list[Path]:
    """Parquet as on the hub: `[x/]train-00000-of-00001.parquet` or `[x/]train/0000.parquet`."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    if spec.hub and spec.hub.config and folder / spec.hub.config in inner:
        inner = [folder / spec.hub.config]
    found: list[list[Path]] = []
    for place in (folder, *inner):
        for name in SPLIT_NAMES[split]:
            for pattern in (f"{name}.parquet", f"{name}-*-of-*.parquet", f"{name}/*.parquet"):
                parts = sorted(place.glob(pattern))
                if parts:
                    found.append(parts)
    if len(found) > 1:
        names = [str(parts[0].relative_to(folder)) for parts in found]
        raise ValueError(_ambiguous(folder, split, names))
    if not found:
        return []
    _refuse_gaps(found[0])
    return found[0]


def _refuse_gaps(parts: Sequence[Path]) -> None:
    numbers = [re.search(r"(\d+)(?:-of-(\d+))?\.parquet$", part.name) for part in parts]
    for place, match in enumerate(numbers):
        if match is None:
            continue
        total = int(match[2] or len(parts))
        if int(match[1]) != place or total != len(parts):
            raise ValueError(
                f"{parts[0].parent}: parts are missing: {len(parts)} of "
                f"{max(total, int(match[1]) + 1)} are here: {', '.join(p.name for p in parts)}"
            )


def _ambiguous(folder: Path, split: Split, names: Sequence[str]) -> str:
    return (
        f"{folder}: more than one file could be the {split} split: {', '.join(names)}. "
        f"Name one in the task's `files: {{{split}: NAME}}`"
    )


def _listing(folder: Path) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f", and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return (", ".join(names[:_MOST_LISTED]) or "nothing") + more
