"""Which rows and columns of which maps belong to a tiny base's units, written out."""

from pathlib import Path

from weft.pruning.record import read_pruning

NEURONS = 64
LAYERS = {
    "bert": "encoder.layer.{}.",
    "roberta": "encoder.layer.{}.",
    "distilbert": "transformer.layer.{}.",
    "modernbert": "layers.{}.",
    "gpt2": "h.{}.",
    "llama": "layers.{}.",
}
FFN = {
    "bert": (["intermediate.dense"], "output.dense"),
    "roberta": (["intermediate.dense"], "output.dense"),
    "distilbert": (["ffn.lin1"], "ffn.lin2"),
    "modernbert": (["mlp.Wi"], "mlp.Wo"),
    "gpt2": (["mlp.c_fc"], "mlp.c_proj"),
    "llama": (["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj"),
}
Places = dict[str, tuple[list[int], list[int]]]
"""Rows and columns by module name."""


def neurons(model_type: str, layer: int, kept: list[int]) -> Places:
    """Rows and columns of a layer's maps that belong to some of its neurons, written out."""
    before = LAYERS[model_type].format(layer)
    rising, falling = FFN[model_type]
    rows = kept + [NEURONS + unit for unit in kept] if model_type == "modernbert" else kept
    hidden = list(range(32))
    return {before + name: (rows, hidden) for name in rising} | {before + falling: (hidden, kept)}


def heads(layer: int, kept: list[int]) -> Places:
    """The same of a Llama's groups: two query heads and one key-value head of size 8."""
    before = f"layers.{layer}.self_attn."
    two = [16 * unit + at for unit in kept for at in range(16)]
    one = [8 * unit + at for unit in kept for at in range(8)]
    hidden = list(range(32))
    return {
        f"{before}q_proj": (two, hidden),
        f"{before}k_proj": (one, hidden),
        f"{before}v_proj": (one, hidden),
        f"{before}o_proj": (hidden, two),
    }


def places_of(model_type: str, folder: Path) -> Places:
    """Rows and columns that stayed, of every pruned map, from what `pruning.json` kept."""
    kept = read_pruning(folder).kept
    found: Places = {}
    for layer, units in kept["neurons"].items():
        found |= neurons(model_type, layer, units)
    for layer, units in kept.get("heads", {}).items():
        found |= heads(layer, units)
    return found
