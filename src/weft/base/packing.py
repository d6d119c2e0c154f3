"""Whether a trunk keeps texts of one sequence apart: asked of it, not of its name."""

import torch

from weft.base.loading import Base

_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Of states, relative to the largest: rounding is far below, a look at another text far above."""
_HALF_TOLERANCE = 5e-2


def check_packing(base: Base) -> None:
    """Refuse a base that lets a text look at the one before it in the same sequence.

    Transformers keeps texts apart by their positions, where no attention mask is given, in the trunks that make their
    masks by its functions; trunks that number no positions, or make masks themselves, do not.

    Raises:
        ValueError: If it does.
    """
    trunk = base.trunk
    device = next(trunk.parameters()).device
    ids = torch.arange(1, 9, device=device).view(2, 4)
    positions = torch.arange(4, device=device).repeat(2)
    try:
        with torch.no_grad():
            alone = trunk(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
            together = trunk(
                input_ids=ids.view(1, -1), position_ids=positions.unsqueeze(0), use_cache=False
            ).last_hidden_state[0]
        apart = (together - alone).abs().max() <= alone.abs().max() * _TOLERANCE.get(
            trunk.dtype, _HALF_TOLERANCE
        )
    except TypeError:
        # It takes no positions.
        apart = False
    if not apart:
        raise ValueError(
            f"{base.name} ({base.model_type}) lets a text look at those before it in its block, so its rows cannot be "
            "packed; set the task's option pack: false"
        )
