"""A user's expert on the population's base: made, put into a row of numbers, and taken out of one."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from weft.base.loading import Base
from weft.config import PersonalSettings
from weft.lowrank.attach import frozen_linear
from weft.lowrank.route import Members
from weft.lowrank.start import zero_product
from weft.methods.adapters.lora import LoRA
from weft.methods.adapters.lora import Spec as LoRASpec
from weft.model.expert import Expert
from weft.model.head import Head, trained_dtype
from weft.model.snapshot import repeated
from weft.storage.personal.users import Index, Layout, Users

HEAD = "head/"
"""Before the names of a head's tensors in a layout."""


def called(population: str, user: str) -> str:
    """How routes call a user's expert: `population@user`."""
    return f"{population}@{user}"


def members_of(population: str, user: str, *, shared: bool) -> Members:
    """Whose adapters speak for a user's rows."""
    own = called(population, user)
    return (population, own) if shared else (own,)


def new_expert(
    user: str,
    population: Expert,
    base: Base,
    settings: PersonalSettings,
    *,
    head: Head | None,
    generator: torch.Generator,
) -> Expert:
    """A user's expert as it starts: A drawn, B zero, so that at first it changes nothing.

    Args:
        user: Whose.
        population: Has adapters; the user's sit on the same maps.
        base: The frozen base.
        settings: Its rank and strength.
        head: What answers for it.
        generator: Source of every random value; CPU.

    Raises:
        ValueError: If the rank is larger than a map.
    """
    spec = LoRASpec(rank=settings.rank, alpha=settings.alpha)
    adapters: dict[str, LoRA] = {}
    for module in population.adapters:
        weight = frozen_linear(base.trunk, module).weight
        if settings.rank > min(weight.shape):
            raise ValueError(
                f"personal.rank {settings.rank} is larger than {module}, which is {weight.shape[0]} x "
                f"{weight.shape[1]}; choose at most {min(weight.shape)}"
            )
        A, B = zero_product(weight, settings.rank, generator)
        adapters[module] = LoRA.of(A, B, spec).to(trained_dtype(base))
    return Expert(called(population.name, user), adapters, head)


def layout_of(expert: Expert, *, own_head: bool) -> Layout:
    """The names and shapes of what is stored of a user's expert."""
    return [(name, tuple(value.shape)) for name, value in stored(expert, own_head=own_head).items()]


def stored(expert: Expert, *, own_head: bool) -> dict[str, Tensor]:
    """What is stored of a user's expert, by name."""
    found: dict[str, Tensor] = {
        f"{module}/{side}": adapter.get_parameter(side)
        for module, adapter in expert.adapters.items()
        for side in ("A", "B")
    }
    if own_head and expert.head is not None:
        found |= {f"{HEAD}{name}": value for name, value in expert.head.state().items()}
    return found


def read_expert(users: Users, user: str, population: Expert, name: str | None = None) -> Expert:
    """A user's expert, ready to answer beside the population's.

    Args:
        users: The run's.
        user: Whose.
        population: Of the same run; an own head is a copy of its head with the user's numbers.
        name: How routes call it; None is `population@user`.

    Raises:
        KeyError: If the user has none.
        ValueError: If what is stored is damaged or does not fit the population.
    """
    return made(
        users.tensors(user),
        users.index,
        population,
        name or called(population.name, user),
        users.folder,
    )


def made(
    tensors: Mapping[str, Tensor], index: Index, population: Expert, name: str, where: Path
) -> Expert:
    """A user's expert of its tensors; arguments and errors as of `read_expert`."""
    spec = LoRASpec(rank=index.rank, alpha=index.alpha)
    adapters = {
        module: LoRA.of(tensors[f"{module}/A"].clone(), tensors[f"{module}/B"].clone(), spec)
        for module in check_maps(tensors, population, where)
    }
    return Expert(name, adapters, head_of(tensors, population))


def check_maps(tensors: Mapping[str, Tensor], population: Expert, where: Path) -> list[str]:
    """The maps that a user's tensors adapt, which are the population's.

    Raises:
        ValueError: If they are others.
    """
    modules = list(
        dict.fromkeys(key.rpartition("/")[0] for key in tensors if not key.startswith(HEAD))
    )
    if modules != list(population.adapters):
        odd = sorted(set(modules) ^ set(population.adapters)) or modules
        raise ValueError(
            f"{where}: users have adapters on other maps than the population ({', '.join(odd[:3])}); the two are not "
            "of one training: train again"
        )
    return modules


def head_of(tensors: Mapping[str, Tensor], population: Expert) -> Head | None:
    """What answers for a user: the population's head, or a copy of it with the user's numbers."""
    own = {key.removeprefix(HEAD): value for key, value in tensors.items() if key.startswith(HEAD)}
    if not own or population.head is None:
        return population.head
    head = own_copy(population.head)
    head.load_state(own)
    return head


def own_copy(head: Head) -> Head:
    """A head with trained parameters of its own; what came frozen with the base stays the same tensors."""
    trained = set(head.trained_names())
    own = {
        id(value): nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
        for name, value in head.module.named_parameters(remove_duplicate=False)
        if name in trained
    }
    return repeated(head, own)
