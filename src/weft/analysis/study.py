"""What a question is put to: the base, the experts on it, and what there is to read; made when it is asked for."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from weft.analysis.measures.changes import Change, drawn_like
from weft.analysis.notes import Notes
from weft.analysis.probing.annotations import TRAINING, Annotation, annotations
from weft.analysis.reading.traces import gates_of
from weft.analysis.seeds import Seeds
from weft.analysis.states import Held, states_of
from weft.analysis.subjects import Subject
from weft.analysis.texts import Corpus, NotAtHandError, Sentence, corpus_of, own_rows, treebank
from weft.answering.inference import padding_id
from weft.base.loading import Base, untrained
from weft.lowrank.attach import frozen_linear
from weft.lowrank.intruders import Decomposed
from weft.lowrank.roles import Roles, layer_index, role_of, roles_of
from weft.lowrank.route import Route
from weft.lowrank.start import wide
from weft.model.expert import Expert
from weft.model.factoring import lora_of
from weft.model.model import Model
from weft.scoped import tell

SENTENCES = 200
"""Sentences, or rows of a task, whose states are compared."""
MOST_GATES = 32
"""Corpora times mixtures whose gates are held in memory."""
Reader = Subject | Literal["untrained"] | None
"""Who reads: an expert; the base's architecture with weights that were drawn; the bare base."""


class Study:
    """The base, the experts and the texts.

    Args:
        model: The base with its experts woven in.
        subjects: What is asked of.
        data: Folder with `ud_ewt/`, and a sub-folder for each task; None takes each run's own data.
        seed: Of every draw.
        notes: Where long questions keep what they have; None keeps nothing.
    """

    def __init__(
        self,
        model: Model,
        subjects: Sequence[Subject],
        data: Path | None = None,
        seed: int = 0,
        notes: Notes | None = None,
    ) -> None:
        self.model = model
        self.subjects = tuple(subjects)
        self.data = data
        self.seed = seed
        self.notes = notes or Notes()
        self.seeds = Seeds([subject.found for subject in subjects])
        self._frozen: dict[str, Decomposed] = {}
        self._states = Held()
        self._gates = lru_cache(maxsize=MOST_GATES)(self._read_gates)
        self._corpora: dict[str, Corpus] = {}

    @property
    def base(self) -> Base:
        return self.model.base

    @cached_property
    def roles(self) -> Roles:
        return roles_of(self.base.trunk)

    @property
    def precision(self) -> str:
        """The arithmetic of base and experts: fp32 or fp64."""
        double = next(self.model.trunk.parameters()).dtype == torch.float64
        return "fp64" if double else "fp32"

    @property
    def experts(self) -> list[tuple[Subject, dict[str, Change]]]:
        """Those whose change is one of the weights, and it; mixtures have none."""
        return [(own, own.changes) for own in self.subjects if own.changes is not None]

    def place(self, module: str) -> tuple[int, str]:
        """A map's layer from 0, and its role, or its own name where it plays none."""
        layer = layer_index(module)
        return -1 if layer is None else layer, role_of(self.roles, module) or module

    def weight(self, module: str) -> Tensor:
        """W0 (out, in), on the CPU."""
        return wide(frozen_linear(self.base.trunk, module).weight).cpu()

    def frozen(self, module: str) -> Decomposed:
        """W0 as its singular triplets."""
        if module not in self._frozen:
            tell(f"decomposing {module}")
            self._frozen[module] = Decomposed.of(self.weight(module))
        return self._frozen[module]

    def twin(self, subject: Subject) -> dict[str, Change]:
        """A random expert of the same maps, ranks and norms: what chance makes of a change of that size."""
        assert subject.changes is not None
        generator = self.generator(subject.name)
        return {name: drawn_like(own, generator) for name, own in subject.changes.items()}

    def generator(self, name: str) -> torch.Generator:
        """Draws that depend on the seed and a name alone."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))

    @cached_property
    def trees(self) -> list[Sentence]:
        """A seeded sample of the treebank's validation sentences.

        Raises:
            NotAtHandError: If there is no treebank.
        """
        found = treebank(self._folder(), "validation")
        chosen = torch.randperm(len(found), generator=self.generator("sentences"))[:SENTENCES]
        return [found[at] for at in sorted(chosen.tolist())]

    def training_trees(self, most: int) -> list[Sentence]:
        """A seeded sample of the treebank's training sentences, to train probes on."""
        found = treebank(self._folder(), "train")
        chosen = torch.randperm(len(found), generator=self.generator("training"))[:most]
        return [found[at] for at in sorted(chosen.tolist())]

    def _folder(self) -> Path:
        if self.data is None:
            raise NotAtHandError("trees are wanted; give the folder that has ud_ewt/ as --data")
        return self.data

    @property
    def has_trees(self) -> bool:
        return self.data is not None and (self.data / "ud_ewt").is_dir()

    def common(self, subject: Subject) -> Corpus:
        """What all experts read: the treebank; where there is none, an expert's own rows."""
        if not self.has_trees:
            return self.rows(subject)
        return self.parsed[0]

    @cached_property
    def parsed(self) -> tuple[Corpus, list[Sentence]]:
        """What all experts read of the treebank, and the same sentences with their trees."""
        return self._parsed("ud_ewt", self.trees)

    @cached_property
    def parsed_training(self) -> tuple[Corpus, list[Sentence]]:
        """The same of sentences to train probes on."""
        return self._parsed("ud_ewt train", self.training_trees(TRAINING))

    def _parsed(self, name: str, sentences: list[Sentence]) -> tuple[Corpus, list[Sentence]]:
        corpus, kept = corpus_of(name, sentences, self.base)
        return corpus, [sentences[at] for at in kept]

    @cached_property
    def annotations(self) -> list[Annotation]:
        """What probes are to find, of all that is annotated below the folder of data."""
        return annotations(
            self._folder(),
            self.base,
            train=self.parsed_training,
            held=self.parsed,
            generator=self.generator("annotations"),
        )

    def rows(self, subject: Subject) -> Corpus:
        """Rows of an expert's own task.

        Raises:
            NotAtHandError: If they are not; says why.
        """
        found = subject.found
        if found.name not in self._corpora:
            self._corpora[found.name] = own_rows(found, self.base, self.data, SENTENCES)
        return self._corpora[found.name]

    def states(self, corpus: Corpus, reader: Reader) -> list[Tensor]:
        """Of the embeddings and every layer, (units, hidden) each; without a reader, the base's."""
        return self._states.get((corpus, reader), lambda: self._read(corpus, reader))

    def _read(self, corpus: Corpus, reader: Reader) -> list[Tensor]:
        route = None
        if isinstance(reader, Subject):
            model, route = reader.model, route_of(reader)
        else:
            model = self.model if reader is None else self._untrained
        return states_of(model.snapshot, corpus, route, padding_id(self.base))

    @cached_property
    def _untrained(self) -> Model:
        return Model(untrained(self.base, seed=self.seed)).eval()

    def gates(self, corpus: Corpus, subject: Subject) -> dict[str, Tensor]:
        """Of a mixture, by map the gates of each unit, (units, gates)."""
        return self._gates(corpus, subject)

    def _read_gates(self, corpus: Corpus, subject: Subject) -> dict[str, Tensor]:
        return gates_of(subject.model.snapshot, corpus, route_of(subject), padding_id(self.base))

    def twin_states(self, corpus: Corpus, subject: Subject) -> list[Tensor] | None:
        """The states under a random expert of the same maps, ranks and norms; None of a mixture, which has no size."""
        if subject.changes is None:
            return None
        with self.by_chance(subject) as name:
            route = Route.everywhere(name)
            return states_of(self.model.snapshot, corpus, route, padding_id(self.base))

    @contextmanager
    def by_chance(self, subject: Subject) -> Iterator[str]:
        """What a random expert of the same maps, ranks and norms is called, which is on the base inside the block."""
        like = next(self.model.trunk.parameters())
        adapters = {
            module: lora_of(*(side.to(like) for side in change.pair))
            for module, change in self.twin(subject).items()
            if change.rank
        }
        name = f"{subject.name} by chance"
        with self.resident(Expert(name, adapters, None)):
            yield name

    @contextmanager
    def resident(self, expert: Expert) -> Iterator[None]:
        """The expert is on the base inside the block."""
        self.model.add(expert.to(next(self.model.trunk.parameters()).device))
        try:
            yield
        finally:
            self.model.remove(expert.name)

    def pairs(self) -> Iterator[tuple[Subject, Subject]]:
        """Every two experts, once."""
        experts = [own for own, _ in self.experts]
        for at, one in enumerate(experts):
            for other in experts[at + 1 :]:
                yield one, other


def route_of(subject: Subject) -> Route:
    """Who speaks where a subject is asked."""
    return Route.everywhere(subject.member).owned((subject.found.task,))
