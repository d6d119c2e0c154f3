"""What learns the weights of a merge: a few rows of every task in, weights out; experts and heads stay as they are."""

from abc import ABC, abstractmethod

from weft.config import MergeSettings
from weft.merging.combine import Learned
from weft.merging.stage import Stage
from weft.methods.merges.contract import Merge


class Learner(ABC):
    """Learns the weights of the method of its name."""

    @abstractmethod
    def learn(self, stage: Stage, method: Merge, settings: MergeSettings) -> Learned:
        """Weights for the experts of a stage.

        Args:
            stage: The experts on one model, and the rows of their tasks.
            method: The method, with its settings.
            settings: Of the merge: its seed is the source of every draw.

        Raises:
            ValueError: If a task's rows are not at hand.
        """
