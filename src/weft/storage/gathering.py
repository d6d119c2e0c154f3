"""Many adapters at once, from folders, from the hub, several in a folder: each a run folder, all of them or none."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from weft.atomic import atomic_folder
from weft.base.loading import Base
from weft.runs import RunFolder
from weft.storage.importing import adapters_in, located, prepared


def import_experts(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    base: str | None = None,
    task: str | Sequence[str | None] | None = None,
    data: str | Path | None = None,
) -> dict[str, Path]:
    """Bring adapters in as run folders below `out`, one each; a base that several share is loaded once.

    It is all or nothing: whatever is refused, is refused before any run folder is in its place.

    Args:
        folders: As of `import_expert`: folders, or hub ids. One that holds several adapters, as PEFT saves them (a
            sub-folder each), gives all of them.
        out: Folder for the run folders, which get the names of their adapters: the last part of folder or id, or what
            PEFT calls the adapter.
        base: The base of all of them; None takes what each says.
        task: The task of all of them, or one for each of `folders`; None takes what weft's own cards say.
        data: Folder of the task's data, for evaluation later.

    Returns:
        The run folders by name, in the order given.

    Raises:
        ValueError: If one is refused, with which and why; if two have one name, or a run folder exists. Nothing was
            imported then.
    """
    if not folders:
        raise ValueError("no folders given; name at least one")
    tasks = [task] * len(folders) if task is None or isinstance(task, str) else list(task)
    if len(tasks) != len(folders):
        raise ValueError(
            f"{len(tasks)} tasks for {len(folders)} folders; give one for all, or one for each"
        )
    parent, places = Path(out), _places(folders, tasks)
    for name in places:
        RunFolder(parent / name).refuse_existing()
    was_there = parent.exists()
    bases: dict[tuple[str, str | None], Base] = {}
    at: Path | None = None
    try:
        writers = {}
        for name, (at, own) in places.items():
            folder = RunFolder(parent / name)
            writers[name] = prepared(at, folder, bases, base=base, task=own, data=data)
        # Drafts take their places when the last one is written, and go if one is refused.
        with ExitStack() as drafts:
            for name, write in writers.items():
                at = places[name][0]
                write(drafts.enter_context(atomic_folder(parent / name)))
    except (KeyError, ValueError) as error:
        said = str(error.args[0] if error.args else error)
        where = "" if str(at) in said else f"{at}: "
        raise ValueError(f"{where}{said}; none of the {len(places)} was imported") from error
    finally:
        if not was_there:
            # Empty where something was refused.
            with suppress(OSError):
                parent.rmdir()
    return {name: parent / name for name in places}


def _places(
    folders: Sequence[str | Path], tasks: Sequence[str | None]
) -> dict[str, tuple[Path, str | None]]:
    """Every adapter by the name of its run: where it is, and its task."""
    found: dict[str, tuple[Path, str | None]] = {}
    for given, task in zip(folders, tasks, strict=True):
        folder = located(str(given))
        inside = adapters_in(folder)
        if not inside:
            raise ValueError(f"{given} holds no adapter: neither adapter_config.json nor weft.json")
        for name, path in inside.items():
            # A folder of the hub's cache is called by its commit.
            own = Path(str(given).rstrip("/")).resolve().name if path == folder else name
            if own in found:
                raise ValueError(
                    f"{path} and {found[own][0]} would both be called {own}; import them apart, or rename one"
                )
            found[own] = path, task
    return found
