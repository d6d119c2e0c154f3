"""How the merges that learn their weights learn them: a file for each, called as the method is."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.merging.learned.contract import Learner

learners: "Registry[Learner]" = Registry(
    "weft.merging.learned", "weft.merging.learned.contract:Learner"
)
