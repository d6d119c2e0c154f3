"""Graded pairs of sentences, and how alike the states of base and experts make them."""

from collections.abc import Sequence
from dataclasses import replace

from weft.analysis.reading.answers import Rows
from weft.analysis.study import Study
from weft.analysis.subjects import Subject
from weft.analysis.texts import NotAtHandError
from weft.config import TaskSettings
from weft.data.encoding import cache_folder, encode_examples
from weft.data.reading import load_task
from weft.lowrank.route import Members
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.model import Model
from weft.registry import said_by
from weft.tasks.contract import Prediction
from weft.tasks.scoring import Score, paired_difference, score

FOLDER = "stsb"
"""Below `--data`: `validation.csv` of the STS benchmark."""
SET = "stsb_embedding"
_HEAD = "mean state"


class Pairs:
    """The validation pairs of the STS benchmark.

    Args:
        study: Has the base and the folder of data.

    Raises:
        NotAtHandError: If the pairs are not there, or the base has no states to take a mean of.
    """

    def __init__(self, study: Study) -> None:
        folder = None if study.data is None else study.data / FOLDER
        if folder is None or not folder.is_dir():
            raise NotAtHandError(
                f"it reads graded pairs of sentences; give the folder that has {FOLDER}/ as --data"
            )
        self.study = study
        self.name = f"{FOLDER} validation"
        try:
            settings = TaskSettings(name=SET, data=str(folder))
            loaded = load_task(settings, splits=["validation"], seed=study.seed, labels=())
            self._head = Head("embedding", study.base, 0, seed=0)
        except (KeyError, OSError, ValueError) as error:
            raise NotAtHandError(said_by(error)) from error
        examples = loaded.splits["validation"]
        records = encode_examples(loaded.task, examples, study.base.tokenizer, cache=cache_folder())
        self._rows = Rows(loaded.task, examples, records, _HEAD)

    def __len__(self) -> int:
        return len(self._rows.examples)

    def base(self) -> list[Prediction]:
        """Under the bare base."""
        return self._said(self.study.model, ())

    def of(self, subject: Subject) -> list[Prediction]:
        """Under an expert, a whole model or a mixture."""
        # Gates may read whose row it is, so a mixture is asked in the name of its task.
        task = subject.found.task if subject.found.mixes else None
        return self._said(subject.model, (subject.member,), task)

    def by_chance(self, subject: Subject) -> list[Prediction] | None:
        """Under a random expert of the same size; None of a mixture."""
        if subject.changes is None:
            return None
        with self.study.by_chance(subject) as name:
            return self._said(self.study.model, (name,))

    def score(self, said: Sequence[Prediction]) -> Score:
        """Spearman's correlation."""
        return score(self._rows.task, said, self._rows.examples, resamples=0)["spearman"]

    def apart(self, said: Sequence[Prediction], before: Sequence[Prediction]) -> Score:
        """How much higher it is, with a paired bootstrap interval."""
        rows = self._rows
        found = paired_difference(rows.task, said, before, rows.examples, seed=self.study.seed)
        return found["spearman"]

    def _said(self, model: Model, members: Members, task: str | None = None) -> list[Prediction]:
        """What the mean of the states says, in place of a task's head or beside all."""
        name = task or _HEAD
        own = [] if task is None else [task]
        gone = model.change(add=[Expert(name, {}, self._head)], remove=own)
        try:
            return replace(self._rows, head=name).said(self.study, members, model)
        finally:
            model.change(add=gone, remove=[name])
