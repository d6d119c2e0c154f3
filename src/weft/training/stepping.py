"""One optimizer step of everything that learns: a union of batches in, updated experts out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor

from weft.answering.inference import autocast, padding_id
from weft.lowrank.route import Route
from weft.methods.gates.trace import GateTrace, traced
from weft.methods.penalties.contract import Said
from weft.model.batching import MOST_TOKENS, Batch, Item, Part, collate, labelled, pieces, share_of
from weft.model.heads import kind_of
from weft.training.assembly import Session
from weft.training.learning import Learner

HALF_MULTIPLE = 8
"""What sequences are padded to a multiple of in half precision: a CPU's library keeps code for every new shape, a third
of the memory of a small run, and an accelerator's tensor cores want it."""


class Stepper:
    """Runs the rows of a step through the model and updates the learners they belong to.

    Attributes:
        tokens: Real tokens this process has trained on.
    """

    def __init__(self, session: Session, accelerator: Accelerator) -> None:
        self.session = session
        self.accelerator = accelerator
        self.training = session.run.training
        self.scaler = torch.amp.GradScaler(
            session.device.type, enabled=self.training.precision == "fp16"
        )
        self.tokens = 0

    def step(self, learners: Sequence[Learner], step: int) -> dict[str, Tensor]:
        """One optimizer step of every learner that is not done; mean loss by head."""
        active = [learner for learner in learners if not learner.is_over and step < learner.total]
        streams = [s for learner in active for s in learner.streams if step < s.total_steps]
        streams = list({stream.name: stream for stream in streams}.values())
        for learner in active:
            learner.before_step(step)
        items = sorted(
            (item for stream in streams for item in stream.items(step)),
            key=lambda item: item.length,
        )
        counts = self._counts(items)
        weights = _weights(active, step)
        tokens = sum(len(ids) for item in items for ids in item.record["input_ids"])
        own = share_of(items, self.accelerator.process_index, self.accelerator.num_processes)
        sums = {
            head: torch.zeros((), dtype=torch.float64, device=self.session.device)
            for head in counts
        }
        most = MOST_TOKENS.get(self.session.device.type)
        for number, piece in enumerate(pieces(own, self.training.accumulation, most)):
            batch = collate(
                piece,
                padding_id(self.session.base),
                multiple=HALF_MULTIPLE if self.training.precision in ("bf16", "fp16") else 1,
                positions=self.session.base.max_positions,
            ).to(self.session.device)
            self.tokens += batch.tokens
            first = number == 0 and self.accelerator.is_main_process
            penalised = active if first else []
            shares = {False: batch.tokens / tokens, True: _answers(piece) / _answers(items)}
            self._backward(batch, counts, sums, penalised, weights=weights, shares=shares)
        self._reduce(active)
        for learner in active:
            learner.step(step, self.scaler)
        self.scaler.update()
        if self.accelerator.num_processes > 1:
            sums = {head: summed(self.accelerator, value) for head, value in sums.items()}
        for learner in active:
            seen = {s.name: sums[s.head] for s in learner.streams if s.head in counts}
            learner.balance.observe(seen)
        return sums

    def _backward(
        self,
        batch: Batch,
        counts: Mapping[str, float],
        sums: dict[str, Tensor],
        penalised: Sequence[Learner],
        *,
        weights: Mapping[str, float],
        shares: Mapping[bool, float],
    ) -> None:
        trace = GateTrace()
        with autocast(self.session.device, self.training.precision), traced(trace):
            logits = self.session.model(batch)
        loss = torch.zeros((), device=self.session.device, dtype=torch.float64)
        for part in batch.parts:
            assert part.labels is not None
            kind = kind_of(part.kind)
            smoothing = self.training.label_smoothing
            loss_sum = kind.loss(logits[part.head], part.labels, smoothing, part.weights)
            mean = loss_sum / (counts[part.head] or 1)
            sums[part.head] += mean.detach()
            loss = loss + weights[part.head] * mean
        for learner in penalised:
            for expert, recipe in learner.experts:
                for penalty in recipe.penalties:
                    loss = loss + penalty.loss(logits.get(expert.name), batch, expert.adapters)
                    if penalty.reads_outputs:
                        said = self._said(expert.name, logits, batch)
                        terms = [penalty.output_loss(own) for own in said]
                        loss = loss + sum(terms) / max(1, len(terms))
        for name, (weight, value, by_row) in self._gate_losses(trace).items():
            # Means over tokens, or over rows: this batch's part of the step's.
            share = shares[by_row]
            loss = loss + share * weight * value
            sums[name] = sums.get(name, 0.0) + share * value.detach()
        if loss.requires_grad:
            self.scaler.scale(loss).backward()

    def _said(self, expert: str, logits: Mapping[str, Tensor], batch: Batch) -> list[Said]:
        """What an expert said of the batch, by each head that its adapters speak through."""
        heads = {stream.head for stream in self.session.streams if expert in stream.members}
        return [self._said_by(part, logits, batch) for part in batch.parts if part.head in heads]

    def _said_by(self, part: Part, logits: Mapping[str, Tensor], batch: Batch) -> Said:
        kind, labels = kind_of(part.kind), part.labels
        assert labels is not None

        def bare() -> Tensor:
            rows = slice(part.start, part.stop), slice(part.width)
            inputs = {name: value[rows] for name, value in batch.inputs.items()}
            own = replace(part, start=0, stop=part.stop - part.start)
            with torch.no_grad(), autocast(self.session.device, self.training.precision):
                # What the model holds now, whose heads it shares and whose trunk is the base's own.
                said = self.session.model.snapshot(Batch(inputs, (own,), Route.everywhere()))
            return kind.places(said[part.head], labels)

        return Said(kind.places(logits[part.head], labels), bare, kind.language_model)

    def _gate_losses(self, trace: GateTrace) -> dict[str, tuple[float, Tensor, bool]]:
        """What a mixture adds to the loss, by `mix/<name>`, and whether that is a mean over rows."""
        mix = self.session.mix
        if mix is None:
            return {}
        with torch.no_grad():
            # It sees every batch once.
            mix.mixture.observe(trace)
        rows = mix.mixture.row_means
        return {
            f"{mix.name}/{name}": (*own, name in rows)
            for name, own in mix.mixture.losses(trace).items()
        }

    def _counts(self, items: Sequence[Item]) -> dict[str, float]:
        """Labelled items of the whole step, or the sum of their weights, by head; every process knows them all."""
        by_head: dict[str, list[Item]] = {}
        for item in items:
            by_head.setdefault(item.head, []).append(item)
        return {head: labelled(rows)[2] for head, rows in by_head.items()}

    def _reduce(self, active: Sequence[Learner]) -> None:
        """Sum gradients over processes; a parameter that had no row here counts as zero."""
        if self.accelerator.num_processes == 1:
            return
        for learner in active:
            for value in learner.parameters.values():
                if value.grad is None:
                    value.grad = torch.zeros_like(value)
                value.grad = summed(self.accelerator, value.grad)
        if self.session.mix is not None:
            for tally in self.session.mix.mixture.tallies():
                tally.copy_(summed(self.accelerator, tally))


def _weights(learners: Sequence[Learner], step: int) -> dict[str, float]:
    """What each head's mean loss counts in a step: its share of the rows, on the scale of its balance."""
    return {
        stream.head: stream.weight(step) * learner.balance.weight(stream.name)
        for learner in learners
        for stream in learner.streams
        if step < stream.total_steps
    }


def _answers(items: Sequence[Item]) -> int:
    """Sequences, of which those that are answered together count as one: what a gate's loss over rows is a mean of."""
    return sum(
        1 if kind_of(item.kind).compares else len(item.record["input_ids"]) for item in items
    )


def summed(accelerator: Accelerator, value: Tensor) -> Tensor:
    """The sum of every process's `value`."""
    total = accelerator.reduce(value, reduction="sum")
    assert isinstance(total, Tensor)
    return total
