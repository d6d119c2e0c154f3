"""Inputs that are no text as a prefix of embeddings: encoded, pooled, projected, put where placeholders stand.

    e = P_m(mean of each k vectors of encoder_m(x_m)),    k drawn anew each step, any trained k when answering

Omni-AVSR: a unified multimodal speech recognition with LLMs, section 3 (Cappellazzo et al. 2025, arXiv:2511.07253);
authors' code github.com/umbertocappellazzo/Omni-AVSR. As there: one projector of an input for all rates, two maps with
a rectifier between. Different: encoders are small and trained with it, where theirs are Whisper and AV-HuBERT, frozen;
what is left behind the last whole group has a mean of its own, which theirs drops.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.lowrank.start import kaiming
from weft.model.encoders import encoders
from weft.model.encoders.contract import Encoder
from weft.tasks.contract import Record, Task
from weft.tasks.inputs.contract import Input, pooled_steps
from weft.tasks.kinds.transcription import Transcription


@dataclass(frozen=True)
class Place:
    """Where a row's tokens of one input go.

    Attributes:
        name: Of the input.
        path: The file.
        stamp: Of the file, as `stamp_of` gives it.
        rate: Vectors to a token.
        sequence: Which of the part's sequences.
        start: Its first token there.
    """

    name: str
    path: str
    stamp: str
    rate: int
    sequence: int
    start: int


def places_of(records: Sequence[Record], shifts: Sequence[int] | None = None) -> tuple[Place, ...]:
    """What the rows of a head have that is no text.

    Args:
        records: Each of one sequence.
        shifts: What stands before each, where they are padded on the left.
    """
    return tuple(
        Place(
            one["name"],
            one["path"],
            one["stamp"],
            one["rate"],
            at,
            one["start"] + (shifts[at] if shifts else 0),
        )
        for at, record in enumerate(records)
        for one in record.get("given") or ()
    )


class Encoders(nn.Module):
    """The encoders and projectors of one expert, by kind of input; without a mode, for nothing in it drops.

    Args:
        readers: How each input is read.
        hidden: Width of the decoder.
        seed: Source of the start values; each input draws its own, whatever the others are.
    """

    def __init__(self, readers: Mapping[str, Input], hidden: int, seed: int) -> None:
        super().__init__()
        self.readers = dict(readers)
        self.hidden = hidden
        self.encoders = nn.ModuleDict()
        self.projectors = nn.ModuleDict()
        for name, reader in readers.items():
            draws = np.random.SeedSequence([seed, *name.encode()]).generate_state(1)
            generator = torch.Generator().manual_seed(int(draws[0]))
            self.encoders[name] = encoders.load(name)(reader, generator)
            self.projectors[name] = Projector(reader.settings.width, hidden, generator)

    def forward(self, places: Sequence[Place], embeddings: Tensor) -> Tensor:
        """Embeddings with those of the inputs in place of their placeholders'.

        Args:
            places: What the sequences have that is no text.
            embeddings: (sequences, seq, hidden).
        """
        values, sequences, tokens = [], [], []
        for name in dict.fromkeys(place.name for place in places):
            own = [place for place in places if place.name == name]
            for place, found in zip(own, self._encoded(name, own), strict=True):
                values.append(found)
                sequences.append(torch.full((len(found),), place.sequence))
                tokens.append(place.start + torch.arange(len(found)))
        if not values:
            return embeddings
        at = torch.cat(sequences).to(embeddings.device), torch.cat(tokens).to(embeddings.device)
        return embeddings.index_put(at, torch.cat(values).to(embeddings.dtype))

    def _encoded(self, name: str, places: Sequence[Place]) -> list[Tensor]:
        """The tokens of each place, (tokens, hidden)."""
        encoder, projector = self.encoders[name], self.projectors[name]
        assert isinstance(encoder, Encoder)
        like = encoder.weight
        read = [torch.tensor(self.readers[name].kept(place.path, place.stamp)) for place in places]
        x = nn.utils.rnn.pad_sequence(read, batch_first=True).to(like)
        lengths = torch.tensor([len(one) for one in read], device=like.device)
        present = torch.arange(x.shape[1], device=like.device) < lengths.unsqueeze(1)
        states = encoder(x, present)
        return [
            projector(pooled(own[: len(one)], place.rate))
            for own, one, place in zip(states, read, places, strict=True)
        ]


class Projector(nn.Module):
    """From an encoder's states to the decoder's width: a map, a rectifier, a map."""

    def __init__(self, width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        like = torch.empty(0)
        self.into = nn.Parameter(kaiming((hidden, width), generator, like))
        self.into_bias = nn.Parameter(torch.zeros(hidden))
        self.out = nn.Parameter(kaiming((hidden, hidden), generator, like))
        self.out_bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, self.into, self.into_bias)), self.out, self.out_bias)


def pooled(states: Tensor, rate: int) -> Tensor:
    """The mean of each `rate` states, (ceil(steps / rate), width); a shorter rest has a mean of its own."""
    steps, count = len(states), pooled_steps(len(states), rate)
    sums = F.pad(states, (0, 0, 0, count * rate - steps)).view(count, rate, -1).sum(1)
    sizes = torch.full((count, 1), float(rate), dtype=states.dtype, device=states.device)
    sizes[-1] = steps - (count - 1) * rate
    return sums / sizes


def encoders_for(
    task: Task, hidden: int, dtype: torch.dtype, seed: int, shared: "Encoders | None" = None
) -> Encoders | None:
    """New encoders of a task whose inputs are no text; None for all others.

    Args:
        task: The task.
        hidden: Width of the decoder.
        dtype: Of trained weights.
        seed: Source of the start values.
        shared: Encoders of another task of the run: what both have is one.

    Raises:
        ValueError: If both have an input with different settings.
    """
    if not isinstance(task, Transcription):
        return None
    found = Encoders(task.readers, hidden, seed).to(dtype)
    for name in found.readers.keys() & (shared.readers.keys() if shared else ()):
        assert shared is not None
        if found.readers[name].settings != shared.readers[name].settings:
            raise ValueError(
                f"task {task.spec.name}: options: encoders: {name} has other settings than that of another task, so "
                "they cannot share it; make them alike, or set encoders: own"
            )
        found.encoders[name] = shared.encoders[name]
        found.projectors[name] = shared.projectors[name]
    return found


def united(parts: Iterable[Encoders]) -> Encoders | None:
    """All the inputs that several have between them, to be shared with the next; None where there are none."""
    whole: Encoders | None = None
    for part in parts:
        if whole is None:
            whole = Encoders({}, part.hidden, 0)
        whole.readers |= part.readers
        for name in part.readers:
            whole.encoders[name], whole.projectors[name] = (
                part.encoders[name],
                part.projectors[name],
            )
    return whole


def state_of(own: Encoders) -> dict[str, Tensor]:
    """The trained tensors by name."""
    return {name: value.detach() for name, value in own.named_parameters()}


def take_state(own: Encoders, state: Mapping[str, Tensor]) -> None:
    """Take trained tensors back.

    Raises:
        ValueError: If names or shapes are not those of these encoders.
    """
    values = dict(own.named_parameters())
    if set(state) != set(values):
        raise ValueError(f"encoders have the tensors {sorted(values)}, got {sorted(state)}")
    for name, value in state.items():
        if value.shape != values[name].shape:
            raise ValueError(
                f"encoder tensor {name}: expected shape {tuple(values[name].shape)}, got {tuple(value.shape)}"
            )
    with torch.no_grad():
        for name, value in state.items():
            values[name].copy_(value)
