"""Torch's random state belongs to the process: who draws from a seed draws alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_DRAWING = threading.RLock()
"""Held while a seed is the process's: a head made meanwhile would change what another thread samples."""


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Torch's random state from `seed` inside the block, as it was afterwards; other seeds wait.

    Args:
        seed: Where the draws start.
        device: An accelerator that draws too; its generator starts from the seed as well.
    """
    extra = [device] if device is not None and device.type == "cuda" else []
    with _DRAWING, torch.random.fork_rng(devices=extra):
        # Not `torch.manual_seed` alone, which would start the generators of all accelerators again.
        torch.default_generator.manual_seed(seed)
        for one in extra:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield
