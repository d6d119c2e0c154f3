"""What a new expert would learn, for plans that choose by it."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from weft.answering.inference import padding_id
from weft.config import Run
from weft.data.rows import HOLDOUT
from weft.model.batching import Item, collate
from weft.model.heads import kind_of
from weft.model.model import Model
from weft.training.learning import Stream


class Trial:
    """What an expert would learn, tried on rows of train by a plan that has to choose; nothing is written to.

    Without dropout, so that it is the same again when a run is resumed.

    Args:
        model: Holds the expert, which learns.
        expert: Its name.
        streams: The tasks that its adapters speak for.
        run: Complete.
        rate: Of the adapters.

    Raises:
        ValueError: If a task has too few rows for some to be held out.
    """

    def __init__(
        self, model: Model, expert: str, streams: Sequence[Stream], run: Run, rate: float
    ) -> None:
        self.model, self.streams = model, list(streams)
        self.adapters = model.expert(expert).adapters
        rates: dict[nn.Parameter, float] = {}
        for stream in streams:
            head = model.expert(stream.head).head
            own = run.training.head_learning_rate or rate
            rates |= {p: own for p in (head.parameters() if head else ()) if p.requires_grad}
        learns = model.expert(expert).trained().values()
        rates = dict.fromkeys(learns, rate) | rates
        names = {p: name for name, p in model.named_parameters()}
        self.rates = {names[p]: own for p, own in rates.items()}
        self.start = {names[p]: p.detach() for p in rates}
        self.rows = {stream.name: _parted(stream) for stream in streams}

    def loss(
        self, weights: Mapping[str, Tensor], scales: Mapping[str, Tensor], *, held: bool, at: int
    ) -> Tensor:
        """As the contract of plans says."""
        items = [item for stream in self.streams for item in self._items(stream, held, at)]
        some = next(iter(self.start.values()))
        batch = collate(items, padding_id(self.model.base)).to(some.device)
        training = self.model.training
        try:
            for name, scale in scales.items():
                self.adapters[name].see(lambda x, weight, y, scale=scale: scale.to(y.dtype) * y)
            self.model.eval()
            # The fused forms of attention have no second derivative.
            with sdpa_kernel(SDPBackend.MATH):
                said = functional_call(self.model, dict(weights), (batch,))
        finally:
            self.model.train(training)
            for name in scales:
                self.adapters[name].see(None)
        total = some.new_zeros(())
        for part in batch.parts:
            assert part.labels is not None
            loss = kind_of(part.kind).loss(said[part.head], part.labels, 0.0, part.weights)
            total = total + loss / (part.count or 1)
        return total

    def _items(self, stream: Stream, held: bool, at: int) -> list[Item]:
        rows = self.rows[stream.name][held]
        size = min(stream.training.batch_size, len(rows))
        chosen = [rows[(at * size + place) % len(rows)] for place in range(size)]
        return [stream.item(row, at) for row in chosen]


def _parted(stream: Stream) -> dict[bool, list[int]]:
    """The rows of a task in a drawn order: whether they are held out of the trial, and which."""
    count = len(stream.records)
    if count < 2:
        raise ValueError(
            f"task {stream.name}: the recipe's plan learns on some rows of train and looks at others, and there is "
            f"{count}; take more rows"
        )
    order = np.random.default_rng([stream.seed, count]).permutation(count).tolist()
    held = max(1, round(HOLDOUT * count))
    return {True: order[:held], False: order[held:]}
