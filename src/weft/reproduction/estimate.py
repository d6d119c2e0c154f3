"""About how long a plan takes: its tokens over tokens per second, measured here for a few seconds."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import AutoModel

from weft.answering.inference import autocast
from weft.base.loading import attention_for, config_of
from weft.base.positions import max_positions
from weft.reproduction.work import Planned
from weft.training.assembly import DTYPES

ROWS, TOKENS = 16, 64
"""Size of a timed batch."""


@dataclass(frozen=True)
class Estimate:
    """How long some runs take together, one after the other."""

    runs: int
    seconds: float
    by_base: dict[str, float]
    """Seconds by base."""
    may_stop: int
    """Runs that may stop before their last epoch."""

    @property
    def says(self) -> str:
        """The estimate as a sentence."""
        early = f"; {self.may_stop} may stop early, so it may be less" if self.may_stop else ""
        return (
            f"{self.runs} runs, about {in_words(self.seconds)} one after the other: tokens of all runs over tokens per "
            f"second measured here for a few seconds on random weights, so half or double is possible{early}"
        )


def estimate(runs: Sequence[Planned], tokens_per_second: Mapping[str, float]) -> Estimate:
    """How long `runs` take.

    Args:
        runs: Those still to be run.
        tokens_per_second: Of LoRA by base, as `calibrate` measures them.
    """
    by_base: dict[str, float] = {}
    for run in runs:
        seconds = run.tokens / tokens_per_second[run.base]
        by_base[run.base] = by_base.get(run.base, 0.0) + seconds
    stopping = sum(run.may_stop for run in runs)
    return Estimate(len(runs), sum(by_base.values()), by_base, stopping)


def calibrate(
    base: str, device: torch.device, precision: str = "fp32", *, seconds: float = 3.0
) -> float:
    """Tokens per second of a forward and a backward through a frozen base, as LoRA's training makes them.

    From the base's config alone: random weights take as long as others, and nothing is downloaded for an alias.
    Adapters, head, optimizer and padding are left out, so training is somewhat slower.

    Args:
        base: An alias, a hub id or a folder.
        device: Where.
        precision: As in a run.
        seconds: How long it is timed, at least two rounds.
    """
    config = config_of(base)
    dtype = DTYPES.get(precision, torch.float32)
    how = attention_for(device, half=precision in ("bf16", "fp16"))
    with torch.random.fork_rng(devices=[]):
        trunk = AutoModel.from_config(
            config, dtype=dtype, attn_implementation=how, trust_remote_code=False
        )
    trunk.to(device).requires_grad_(False).eval()
    limit = max_positions(trunk)
    length = TOKENS if limit is None else min(TOKENS, limit)
    start = torch.zeros(ROWS, length, config.hidden_size, device=device, dtype=dtype)
    start.requires_grad_(True)

    def step() -> None:
        with autocast(device, precision):
            out = trunk(inputs_embeds=start).last_hidden_state
        out.float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    step()
    rounds, began = 0, time.perf_counter()
    while rounds < 2 or time.perf_counter() - began < seconds:
        step()
        rounds += 1
    return rounds * ROWS * length / (time.perf_counter() - began)


def in_words(seconds: float) -> str:
    """A time as people say it: no more digits than an estimate has."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
