"""The counts of tables 5 and 6, made from the architectures alone: no weights, no training."""

import functools
from dataclasses import dataclass

from weft.catalogue.counting import mixture_parameters, parameters
from weft.config import RecipeSettings
from weft.methods.recipes import resolve
from weft.reproduction.figures import Address
from weft.reproduction.published import published


@dataclass(frozen=True)
class MixtureCount:
    """X-LoRA in one base: three experts and the head."""

    trained: int
    of: int
    """Base, experts and head."""
    head: int

    @property
    def printed(self) -> tuple[int, int]:
        """(all, trained) with the head counted twice, as published."""
        return self.of + self.head, self.trained + self.head


@functools.cache
def mixture_count(base: str) -> MixtureCount:
    """What table 6 counts in one base."""
    known = published().reconstruction
    found = mixture_parameters("xlora", base, known.experts, known.settings[base])
    return MixtureCount(found["trained"], found["of"], found["gates"])


@functools.cache
def trained(base: str, method: str) -> int:
    """Numbers that full fine-tuning or LoRA trains in a base, without pooler and head."""
    study = published()
    settings = RecipeSettings(name=method)
    if method == "lora":
        address = Address(1, None, None, next(iter(study.tasks)), "rank")
        settings = RecipeSettings.model_validate(
            {
                "name": "lora",
                "rank": int(study.figure(address).value),
                "targets": study.settings.targets,
            }
        )
    return parameters(resolve(settings), base)["trained"]


def count(address: Address) -> int:
    """The count that belongs in a cell."""
    assert address.base is not None
    if address.method == "xlora":
        found = mixture_count(address.base)
        return found.of if address.metric == "parameters" else found.trained
    assert address.method is not None
    return trained(address.base, address.method)
