"""The merged checkpoint of an embedding with its pooling, which `SentenceTransformer` opens."""

from pathlib import Path

from weft.atomic import atomic_folder
from weft.storage.dense import write_pooling
from weft.storage.forms.contract import Form, Wanted
from weft.storage.forms.merged import write_merged
from weft.tasks.kinds.embedding import Embedding


class SentenceTransformers(Form):
    """A folder of sentence-transformers."""

    def check(self, wanted: Wanted) -> None:
        super().check(wanted)
        kind = wanted.card.head
        if kind != "embedding":
            raise ValueError(
                f"{wanted.run.expert}: sentence-transformers opens embeddings, and this expert's kind is "
                f"{kind or 'none'}; export it to peft or merged"
            )

    def write(self, wanted: Wanted, folder: Path) -> None:
        loaded = wanted.load()
        assert isinstance(loaded.task, Embedding)
        with atomic_folder(folder) as draft:
            write_merged(wanted, loaded, draft)
            write_pooling(
                draft,
                base=loaded.model.base,
                max_length=loaded.task.spec.max_length,
                normalize=loaded.task.options.normalize,
            )
