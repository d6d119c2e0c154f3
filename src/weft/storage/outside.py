"""What a PEFT folder changed beside the trunk's linear maps, as an expert of weft holds it.

A head's own part (a pooler, a language model's head) becomes the expert's private one, and of an embedding, a norm or
a bias it owns a copy, because none of them is ever mixed.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from weft.base.loading import Base, checkpoint_tensors
from weft.lowrank.attach import canonical, original
from weft.lowrank.peft.outside import Places
from weft.lowrank.peft.writing import PeftFolder
from weft.model.head import Head, trained_dtype


def places_of(head: Head, base: Base) -> Places:
    """The parameters of the head's task class on this base, for `read_peft`."""
    below = head.below
    own = dict(head.module.named_parameters(remove_duplicate=False))
    trunk = {f"{below}{canonical(name)}": value for name, value in base.trunk.named_parameters()}
    turned = {f"{below}{module}.weight" for module in base.transposed}
    embeddings = {
        id(module): f"{below}{canonical(name)}"
        for name, module in base.trunk.named_modules()
        if isinstance(module, nn.Embedding)
    }
    tokens = base.trunk.get_input_embeddings()
    return Places(
        prefix=head.prefix,
        # (in, out) in the checkpoint: a square one could not be told from its transpose.
        shapes={n: tuple(v.shape) for n, v in {**trunk, **own}.items() if n not in turned},
        linears=frozenset(n for n, m in head.module.named_modules() if isinstance(m, nn.Linear)),
        embeddings=frozenset(embeddings.values()),
        tokens=embeddings.get(id(tokens), ""),
        tied=frozenset(name for name, value in own.items() if value is tokens.weight),
    )


def settled(
    peft: PeftFolder, head: Head, base: Base, path: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every tensor of the head, and those of the trunk's modules that the expert owns a copy of, whole.

    Args:
        peft: The folder, read with `places_of`.
        head: A new head; it is not changed.
        base: The base.
        path: The folder, for errors.

    Raises:
        ValueError: If what was changed is not known, or is a weight that nothing but an adapter may change.
    """
    own = {n: v.detach() for n, v in head.module.named_parameters(remove_duplicate=False)}
    brought = own.keys() - set(head.trained_names())
    known = {name: own[name] for name in brought} | from_base(head, base)
    trunk = {
        f"{head.below}{canonical(name)}": value.detach()
        for name, value in base.trunk.named_parameters()
    }
    values = dict(peft.extra)
    for name, change in peft.changes.items():
        before = values.get(name, known.get(name, trunk.get(name)))
        if before is None:
            raise ValueError(
                f"{path}: an adapter changes {name}, which neither the folder nor the base holds; save that module "
                "with it (modules_to_save), or merge it with PEFT"
            )
        values[name] = change.applied(before)
    answers = {name: v for name, v in values.items() if name not in trunk}
    known = {name: value for name, value in known.items() if name not in answers}
    holders = {name.rpartition(".")[0] for name in answers}
    answers |= {
        name: value
        for name, value in known.items()
        if name not in brought or name.rpartition(".")[0] in holders
    }
    inside = {name: value for name, value in values.items() if name in trunk}
    return answers, _copies(inside, peft, head.below, base, path)


def _copies(
    values: dict[str, Tensor], peft: PeftFolder, below: str, base: Base, path: Path
) -> dict[str, Tensor]:
    """The whole state of every module of the trunk of which a tensor is not the base's."""
    changed: dict[str, dict[str, Tensor]] = {}
    for name, value in values.items():
        module, _, last = name.removeprefix(below).rpartition(".")
        before = original(base.trunk, module).get_parameter(last)
        if torch.equal(before.to(value), value):
            continue
        if last == "weight" and (module in peft.factors or module in base.transposed):
            raise ValueError(
                f"{path}: {name} is not the base's and {module} is adapted or stored as (in, out), so weft cannot keep "
                "both; merge the adapter with PEFT"
            )
        changed.setdefault(module, {})[last] = value
    found = {}
    for module, parts in changed.items():
        state = {**original(base.trunk, module).state_dict(), **parts}
        dtype = trained_dtype(base)
        found |= {f"{below}{module}.{last}": value.to(dtype) for last, value in state.items()}
    return found


def from_base(head: Head, base: Base) -> dict[str, Tensor]:
    """What the base's checkpoint holds of a head's trained parameters: PEFT leaves them, and so does not save them."""
    names = head.trained_names()
    found = checkpoint_tensors(base, names)
    if base.pooler is not None:
        below = f"{head.below}pooler."
        pooler = {f"{below}{key}": value for key, value in base.pooler.state_dict().items()}
        found |= {name: pooler[name] for name in names if name in pooler}
    return found
