"""One head for each kind of task, on trunk states.

A head *is* transformers' task class for that base and kind, with its trunk replaced by a passage that hands the
given states through. So every architecture's own pooling, dropout and layer names hold, and a head's parameters carry
the names PEFT and transformers expect. What the checkpoint has (a pooler, a language-model head) comes frozen with the
base; what it lacks belongs to the head: drawn from the run's seed, trained, saved. Multiple choice trains a copy of
the pooler.
"""

import copy
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from weft.base.forms import trunk_class
from weft.base.loading import Base, checkpoint_tensors
from weft.model.heads import kind_for
from weft.model.passage import Passage, ask, blank, initialise
from weft.model.prefix import Encoders


class Head(nn.Module):
    """The trained module that turns trunk states into one task's answer.

    Args:
        kind: A kind of task.
        base: The base it stands on.
        num_labels: Classes (1 for a regression); spans, choices and language models ignore it.
        seed: Source of the start values.

    Raises:
        KeyError: If there is no such kind.
        ValueError: If transformers has no such head for this base; names the kinds that fit.
    """

    def __init__(self, kind: str, base: Base, num_labels: int, seed: int) -> None:
        super().__init__()
        self.kind_name = kind
        self.kind = kind_for(kind, base.config)
        config = copy.deepcopy(base.config)
        # Span classes read it too, for start and end.
        config.num_labels = num_labels if self.kind.has_classes else 2
        module, self.place = blank(self.kind, config)
        # What the trunk is called in checkpoints.
        self.prefix = "" if self.kind.is_trunk else self.place
        self._frozen: set[str] = set()
        self._initialise(module, base, seed)
        self.module: PreTrainedModel = module
        self.encoders: Encoders | None = None
        """What reads the inputs of its task that are no text."""

    def _initialise(self, module: PreTrainedModel, base: Base, seed: int) -> None:
        initialise(module, self.kind, seed)
        # Before anything of the base is shared: its tensors keep their own type.
        nn.Module.to(module, dtype=trained_dtype(base))
        passage: Passage = getattr(module, self.place)
        if passage.pooler is not None and base.pooler is not None:
            if self.kind.trains_pooler:
                passage.pooler.load_state_dict(base.pooler.state_dict())
            else:
                passage.pooler = base.pooler
                self._frozen |= {
                    f"{self.place}.pooler.{name}" for name, _ in base.pooler.named_parameters()
                }
        if self.kind.language_model:
            self._take_language_model_head(module, base)
        for name, value in module.named_parameters(remove_duplicate=False):
            value.requires_grad_(name not in self._frozen)

    def _take_language_model_head(self, module: PreTrainedModel, base: Base) -> None:
        ties = ties_of(module)
        own = [name for name, _ in module.named_parameters(remove_duplicate=False)]
        found = checkpoint_tensors(base, own)
        for name, value in found.items():
            module.get_parameter(name).data.copy_(value)
            self._frozen.add(name)
        for target, source in ties.items():
            if target in found or not base.config.tie_word_embeddings:
                continue
            if source.startswith(f"{self.prefix}."):
                shared = base.trunk.get_parameter(source.removeprefix(f"{self.prefix}."))
                self._frozen.add(target)
            else:
                shared = module.get_parameter(source)
                if source in self._frozen:
                    self._frozen.add(target)
            parent, _, last = target.rpartition(".")
            setattr(module.get_submodule(parent), last, shared)

    @property
    def below(self) -> str:
        """What stands before the trunk's names in checkpoints of the task class."""
        return f"{self.prefix}." if self.prefix else ""

    @property
    def class_name(self) -> str:
        """The class of transformers whose checkpoint the head and its trunk make."""
        own = trunk_class(self.module.config) if self.kind.is_trunk else type(self.module)
        return own.__name__

    def unfreeze(self, trunk: nn.Module) -> None:
        """Train what the checkpoint brought as well, as recipe `full` does: a copy of the pooler, the LM head.

        Args:
            trunk: The private trunk; weights tied to the embeddings stay tied, to its own.
        """
        passage: Passage = getattr(self.module, self.place)
        passage.pooler = copy.deepcopy(passage.pooler)
        tied = {
            target: source.removeprefix(f"{self.prefix}.")
            for target, source in ties_of(self.module).items()
            if target in self._frozen and source.startswith(f"{self.prefix}.")
        }
        for target, source in tied.items():
            parent, _, last = target.rpartition(".")
            setattr(self.module.get_submodule(parent), last, trunk.get_parameter(source))
        self._frozen = set(tied)
        self.module.requires_grad_(True)

    def own(self, modules: Collection[str]) -> None:
        """Take private, trained copies of modules that came frozen with the base: a pooler's map, an LM head.

        Args:
            modules: Names, as in the task class, of modules that hold parameters. Parameters that are one stay one.
        """
        passage: Passage = getattr(self.module, self.place)
        if any(name.startswith(f"{self.place}.pooler") for name in modules):
            passage.pooler = copy.deepcopy(passage.pooler)
        frozen = {name: self.module.get_parameter(name) for name in sorted(self._frozen)}
        twins = {
            id(old): nn.Parameter(old.detach().to(_wide(old.dtype), copy=True))
            for name, old in frozen.items()
            if name.rpartition(".")[0] in modules
        }
        for name, old in frozen.items():
            if id(old) in twins:
                holder, _, last = name.rpartition(".")
                setattr(self.module.get_submodule(holder), last, twins[id(old)])
                self._frozen.discard(name)

    def thaw(self) -> None:
        """Train a private copy of the head that came frozen with the base; a tied one is parted from the embeddings.

        Raises:
            ValueError: If no language-model head came with it.
        """
        frozen = {name for name in self._frozen if not name.startswith(f"{self.place}.")}
        if not (self.kind.language_model and frozen):
            raise ValueError(
                f"train_also: lm_head is what comes with the base for causal_lm and masked_lm; a {self.kind_name} head "
                "is trained anyway, so leave it out"
            )
        self.own({name.rpartition(".")[0] for name in frozen})

    def trained_names(self) -> list[str]:
        """Names, as in the task class, of the parameters that this head trains and saves."""
        return [name for name, _ in self.module.named_parameters() if name not in self._frozen]

    def state(self) -> dict[str, Tensor]:
        """The trained tensors by the task class's names."""
        values = dict(self.module.named_parameters())
        return {name: values[name].detach() for name in self.trained_names()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take trained tensors back.

        Raises:
            ValueError: If names or shapes are not this head's.
        """
        values = dict(self.module.named_parameters())
        names = self.trained_names()
        if set(state) != set(names):
            raise ValueError(
                f"a {self.kind_name} head of this base has the tensors {sorted(names)}, got {sorted(state)}"
            )
        for name, value in state.items():
            if value.shape != values[name].shape:
                raise ValueError(
                    f"head tensor {name}: expected shape {tuple(values[name].shape)}, got {tuple(value.shape)}"
                )
        with torch.no_grad():
            for name, value in state.items():
                values[name].copy_(value)

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor,
        sequences_per_row: Sequence[int],
        input_ids: Tensor | None = None,
    ) -> Tensor:
        """Logits in the kind's shape.

        Args:
            hidden: Last trunk states, (sequences, seq, hidden).
            attention_mask: 1 for tokens, 0 for padding, (sequences, seq).
            sequences_per_row: How many sequences each row owns.
            input_ids: The tokens, for the few task classes that read them beside the states, (sequences, seq).
        """
        mask = attention_mask.long()
        if self.kind.compares:
            choices = sequences_per_row[0]
            if any(count != choices for count in sequences_per_row):
                raise ValueError(
                    f"rows of one multiple-choice batch need equal choices, got {sequences_per_row}"
                )
            hidden = hidden.view(-1, choices, *hidden.shape[1:])
            mask = mask.view(-1, choices, mask.shape[-1])
            input_ids = None if input_ids is None else input_ids.view(mask.shape)
        return ask(self.module, self.kind, hidden, mask, input_ids)

    def assembled(self, trunk: nn.Module, pooler: nn.Module | None = None) -> PreTrainedModel:
        """Transformers' task class with `trunk` in its place; all weights shared, nothing copied.

        Args:
            trunk: The base, woven or plain.
            pooler: Ignored where the head has its own.
        """
        module = copy.copy(self.module)
        module._modules = dict(self.module._modules)
        passage: Passage = getattr(self.module, self.place)
        own = passage.pooler if passage.pooler is not None else pooler
        if own is not None and hasattr(trunk, "pooler"):
            trunk = copy.copy(trunk)
            trunk._modules = dict(trunk._modules)
            trunk.pooler = own
        setattr(module, self.place, trunk)
        return module


def ties_of(module: PreTrainedModel) -> dict[str, str]:
    """By name, the parameter of a task class that a tied one is the same as."""
    ties = dict(getattr(module, "_tied_weights_keys", None) or {})
    # Some classes write them as the expressions they once were.
    return {target.rstrip("$"): source.rstrip("$") for target, source in ties.items()}


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def trained_dtype(base: Base) -> torch.dtype:
    """The type of trained weights: single precision, or double on a double-precision base."""
    return _wide(base.trunk.dtype)
