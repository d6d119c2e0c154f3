"""A trained generator: from a task's vector to an expert's tensors."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weft.generating.autoencoder import Autoencoder
from weft.generating.learn import conditioned
from weft.generating.record import TASKS, WEIGHTS, Record, read_record
from weft.generating.statistics import Statistics
from weft.generating.vectors import TaskVector
from weft.lowrank.peft.tensors import read_tensors


@dataclass(frozen=True)
class Generator:
    """What `weft learn` wrote, ready to generate."""

    folder: Path
    record: Record
    net: Autoencoder
    known: dict[str, Tensor]

    @classmethod
    def load(cls, folder: str | Path) -> "Generator":
        """The generator in a folder, on the CPU and in eval mode.

        Raises:
            ValueError: If it is none, not trained to its end, or damaged.
        """
        folder = Path(folder)
        record = read_record(folder)
        if not (folder / WEIGHTS).is_file():
            raise ValueError(
                f"{folder} is not trained to its end; go on with weft learn --resume {folder}"
            )
        net = Autoencoder(record.settings, record.length, record.condition)
        weights = read_tensors(folder / WEIGHTS)
        expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in weights.items()}
        if found != expected:
            odd = next(n for n in {**expected, **found} if found.get(n) != expected.get(n))
            raise ValueError(
                f"{folder / WEIGHTS}: {odd} has shape {found.get(odd)}, but generator.json asks for {expected.get(odd)}"
            )
        net.load_state_dict(weights)
        return cls(folder, record, net.eval(), read_tensors(folder / TASKS))

    def check(self, vector: TaskVector) -> None:
        """Refuse a vector that was made otherwise than those of the generator's tasks.

        Raises:
            ValueError: Says what differs, and what to do.
        """
        record = self.record
        if vector.digest != record.digest:
            raise ValueError(
                f"a task's vector of another base: it was read from {vector.base} (digest {vector.digest}), the "
                f"generator {self.folder} is of {record.base} (digest {record.digest}); read the rows with that base"
            )
        if vector.how != record.how or len(vector.values) != record.condition:
            raise ValueError(
                f"a task's vector of another shape: {vector.how}, {len(vector.values)} numbers; the generator "
                f"{self.folder} takes {record.how} ones of {record.condition}"
            )

    def distances(self, vector: TaskVector) -> Tensor:
        """How far a vector is from that of each of the generator's tasks, (tasks,): root mean square."""
        self.check(vector)
        return (self.known["vectors"] - vector.values).square().mean(1).sqrt()

    def state(
        self,
        vector: TaskVector,
        *,
        seed: int = 0,
        spread: float = 1.0,
        statistics: Statistics | None = None,
    ) -> dict[str, Tensor]:
        """The tensors of an expert for a task.

        Args:
            vector: The task's.
            seed: Decides z.
            spread: Deviation of z; 0 is the expert in the middle.
            statistics: In place of those the generator has: the expert's own, where it is known.

        Raises:
            ValueError: If the vector is of another base or shape.
        """
        self.check(vector)
        draw = torch.Generator().manual_seed(seed)
        z = spread * torch.randn(1, self.record.settings.latent, generator=draw)
        with torch.inference_mode():
            made = self.net.decode(z, conditioned(vector.values[None], self.known))[0]
        layout = self.record.layout
        own = statistics or self._statistics(vector)
        return layout.unflatten(own.restored(made[: layout.length].clone(), layout.sizes))

    def _statistics(self, vector: TaskVector) -> Statistics:
        mean, deviation = self.known["mean"], self.known["deviation"]
        if self.record.settings.statistics == "pooled":
            return Statistics(mean, deviation)
        nearest = int(self.distances(vector).argmin())
        return Statistics(mean[nearest], deviation[nearest])
