"""A transformers checkpoint of the task's class whose weights are the base's plus the expert's."""

import shutil
from pathlib import Path

from weft.atomic import atomic_folder
from weft.storage.dense import write_checkpoint
from weft.storage.forms.contract import Form, Wanted, check_headed
from weft.storage.links import refuse_links
from weft.storage.loading import LoadedRun


class Merged(Form):
    """A plain checkpoint."""

    def check(self, wanted: Wanted) -> None:
        super().check(wanted)
        check_headed(wanted)

    def write(self, wanted: Wanted, folder: Path) -> None:
        loaded = None if wanted.is_whole else wanted.load()
        with atomic_folder(folder) as draft:
            write_merged(wanted, loaded, draft)


def write_merged(wanted: Wanted, loaded: LoadedRun | None, folder: Path) -> None:
    """Write the checkpoint into an existing folder; what trained every weight is one already, and is copied.

    Args:
        wanted: What to export.
        loaded: Its expert; None copies.
        folder: Where to.
    """
    if loaded is None or wanted.is_whole:
        refuse_links(wanted.run.expert)
        shutil.copytree(wanted.run.expert, folder, dirs_exist_ok=True)
        return
    expert = loaded.model.expert(loaded.name)
    assert expert.head is not None  # `check` refused one without
    write_checkpoint(
        folder,
        head=expert.head,
        trunk=loaded.model.merged(expert.name),
        base=loaded.model.base,
        labels=loaded.card.labels,
    )
