"""What stands where a task class has its trunk, and which task classes can be given one.

The states that a passage is handed are the states it returns, with what the trunk itself would have made of them at its
end: the pooled state.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from weft.base.forms import blank_trunk, brief, trunk_class
from weft.base.randomness import seeded
from weft.model.heads import fitting, kind_of
from weft.model.heads.contract import Kind

PADDING = -1
"""What task classes are given as the id of padding: no token has it, so none is taken for padding."""
_FAILURES = (AttributeError, TypeError, ValueError, RuntimeError, KeyError, IndexError)
"""What another library's class may raise when it is not given what it needs."""
_TRIAL_TOKENS = 3
_TRIAL_TOLERANCE = 1e-3
"""Of answers with and without padding: rounding is far below, an answer taken from padding far above."""


class Passed(BaseModelOutputWithPoolingAndCrossAttentions):
    """A trunk's output; what a task class asks for and no passage has (a cache, a router's logits) is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class Passage(nn.Module):
    """Stands where the task class has its trunk: the states it is given are the states it returns.

    Args:
        trunk: What stood there; its pooler and its plain settings are kept.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.pooler: nn.Module | None = getattr(trunk, "pooler", None)
        # A pooler that is a bare map leaves it to the trunk to pick the first token and to activate.
        self.activation: nn.Module | None = None
        if isinstance(self.pooler, nn.Linear):
            self.activation = next(
                (part for name, part in trunk.named_children() if name.endswith("activation")),
                nn.Identity(),
            )
        self._settings = {
            name: value
            for name, value in vars(trunk).items()
            if isinstance(value, int | float | str)
        }
        # Some task classes call what is inside the trunk and does all its work.
        self._inner = frozenset(
            name for name, part in trunk.named_children() if isinstance(part, PreTrainedModel)
        )
        self.handed: frozenset[str] = frozenset()
        """Tensors beside states and mask that the task class handed on at its last call."""
        self.size = 0
        """Of the states that it passes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in self._inner:
                return self
            if name in self._settings:
                return self._settings[name]
            raise

    def forward(self, *_: Any, inputs_embeds: Tensor, **others: Any) -> Passed:
        known = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
        self.handed = frozenset(
            name
            for name, value in others.items()
            if isinstance(value, Tensor) and name not in known
        )
        pooled = None if self.pooler is None else self._pooled(inputs_embeds)
        return Passed(last_hidden_state=inputs_embeds, pooler_output=pooled)  # type: ignore[arg-type]

    def _pooled(self, hidden: Tensor) -> Tensor:
        assert self.pooler is not None
        if self.activation is None:
            return self.pooler(hidden)
        return self.activation(self.pooler(hidden[:, 0]))


def blank(kind: Kind, config: PreTrainedConfig) -> tuple[PreTrainedModel, str]:
    """The task class of this kind, a passage in its trunk's place, on the meta device; and the passage's name.

    The class keeps `config` and changes it.

    Raises:
        ValueError: If transformers' class cannot answer from the trunk's last states, with the reason.
    """
    own = trunk_class(config)
    with torch.device("meta"):
        module = kind.task_class(config)
    name = type(module).__name__
    places = [place for place, part in module.named_children() if type(part) is own]
    if not places:
        raise ValueError(f"transformers' {name} does not stand on {own.__name__}, as the base does")
    passage = Passage(getattr(module, places[0]))
    setattr(module, places[0], passage)
    module.config.pad_token_id = PADDING
    try:
        _try(module, kind, passage, config.hidden_size)
    except ValueError:
        # The rare trunk whose last states are of another size than those inside.
        if (size := _last_size(config)) in (None, config.hidden_size):
            raise
        _try(module, kind, passage, size)
    return module, places[0]


def ask(
    module: PreTrainedModel, kind: Kind, hidden: Tensor, mask: Tensor, input_ids: Tensor | None
) -> Tensor:
    """A task class's logits from trunk states (..., seq, hidden); `mask` is 1 for tokens, 0 for padding.

    Args:
        module: From `blank`, with weights.
        kind: Its kind.
        hidden: Last trunk states.
        mask: By state.
        input_ids: The tokens; None is for classes that only look for padding.
    """
    ids = torch.zeros_like(mask) if input_ids is None else input_ids
    extra = {} if kind.language_model else {"input_ids": ids.masked_fill(mask == 0, PADDING)}
    return kind.logits(module(inputs_embeds=hidden, attention_mask=mask, **extra))


def initialise(module: PreTrainedModel, kind: Kind, seed: int) -> None:
    """Give the blank task class start values, in host memory.

    Raises:
        ValueError: If what it answers then depends on the padding behind a row.
    """
    module.to_empty(device="cpu")
    with seeded(seed):
        for part in module.modules():
            module._init_weights(part)
    if not kind.language_model:
        _try_padding(module, kind, next(p for p in module.children() if isinstance(p, Passage)))


def served(config: PreTrainedConfig) -> list[str]:
    """The kinds that a base of this config can serve: each is tried, without the base's weights."""
    return [name for name in fitting(config) if refused(kind_of(name), config) is None]


def refused(kind: Kind, config: PreTrainedConfig) -> str | None:
    """Why a base of this config cannot serve a kind that transformers lists for it; None if it can."""
    try:
        module, _ = blank(kind, copy.deepcopy(config))
        initialise(module, kind, seed=0)
    except ValueError as error:
        return str(error)
    return None


def _try(module: PreTrainedModel, kind: Kind, passage: Passage, size: int) -> None:
    """Ask once, without any numbers: what a class needs beside states shows before any work is done."""
    name = type(module).__name__
    rows = (1, 2) if kind.compares else (1,)
    hidden = torch.empty(*rows, _TRIAL_TOKENS, size, device="meta")
    mask = torch.ones(*rows, _TRIAL_TOKENS, dtype=torch.long, device="meta")
    try:
        with torch.no_grad():
            found = ask(module, kind, hidden, mask, None).shape
    except _FAILURES as error:
        raise ValueError(
            f"transformers' {name} cannot answer from the trunk's last states alone: {brief(error)}"
        ) from error
    if passage.handed:
        raise ValueError(
            f"transformers' {name} hands its trunk {', '.join(sorted(passage.handed))}, which its task decides"
        )
    expected = kind.expected(rows[-1], _TRIAL_TOKENS)
    if tuple(found[:-1]) != expected:
        raise ValueError(f"transformers' {name} answers in the shape {tuple(found)}")
    passage.size = size


def _try_padding(module: PreTrainedModel, kind: Kind, passage: Passage) -> None:
    """Ask with padding behind a row and without."""
    generator = torch.Generator().manual_seed(0)
    rows = (1, 2) if kind.compares else (1,)
    hidden = torch.randn(*rows, 2 * _TRIAL_TOKENS, passage.size, generator=generator)
    mask = torch.ones(hidden.shape[:-1], dtype=torch.long)
    mask[..., _TRIAL_TOKENS:] = 0
    was_training = module.training
    module.eval()
    with torch.no_grad():
        padded = ask(module, kind, hidden, mask, None)
        alone = ask(module, kind, hidden[..., :_TRIAL_TOKENS, :], mask[..., :_TRIAL_TOKENS], None)
    module.train(was_training)
    if padded.shape != alone.shape:
        padded = padded[:, :_TRIAL_TOKENS]
    if (padded - alone).abs().max() > _TRIAL_TOLERANCE * alone.abs().max().clamp(min=1):
        raise ValueError(
            f"transformers' {type(module).__name__} answers from the padding behind a row, so the rows "
            "beside it would change what it says"
        )


def _last_size(config: PreTrainedConfig) -> int | None:
    """The size of the trunk's last states, from the trunk itself; None where it does not run without numbers."""
    trunk = blank_trunk(copy.deepcopy(config)).eval()
    ids = torch.zeros(1, _TRIAL_TOKENS, dtype=torch.long, device="meta")
    try:
        with torch.no_grad():
            # Without a mask: some look whether it masks anything, and there is nothing to look at.
            return trunk(input_ids=ids)[0].shape[-1]
    except _FAILURES:
        return None
