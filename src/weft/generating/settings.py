"""Settings of a generator."""

from typing import Literal, Self

from pydantic import Field, model_validator

from weft.config import Settings

CHANNELS = (8, 16, 32, 64, 128, 256, 256, 128, 64, 32, 16, 8)


class GeneratorSettings(Settings):
    """What decides a generator; the paper's where nothing else is said."""

    channels: tuple[int, ...] = CHANNELS
    """Of the encoder's convolutions, each of which halves the length; the decoder has them in reverse."""
    pad: int = Field(default=4096, ge=2)
    """Parameter vectors are filled up with zeros to a multiple of this, itself one of 2 to the number of channels."""
    latent: int = Field(default=256, ge=1)
    """Numbers in z."""
    norm: Literal["batch", "layer", "none"] = "layer"
    """After every convolution: over each vector alone, or, as published, over the batch, whose 2 vectors say little of
    what is to come; then training and answering differ."""
    kl: float = Field(default=0.005, ge=0)
    """What the divergence of z from its prior counts beside the mean squared error."""
    form: Literal["canonical", "trained"] = "canonical"
    """Factors as their change alone determines them, or as they were trained: for trajectories from one start."""
    statistics: Literal["pooled", "own"] = "pooled"
    """What parameters are normalised by: the mean expert and one deviation a tensor, over all tasks; or, as published,
    mean and deviation of each expert's own tensors, which for a new task are those of the nearest one."""
    vector: Literal["labelled", "pooled"] = "labelled"
    """Of a task with classes: the mean state of what has each class, one behind the other; or the mean over all, which
    cannot tell apart tasks that share their texts."""
    examples: int = Field(default=30, ge=1)
    """Rows of each task that its vector is the mean of, where it has so many."""
    epochs: int = Field(default=2000, ge=1)
    batch_size: int = Field(default=2, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    """Of AdamW; along a cosine that would reach 0 after twice the epochs."""
    weight_decay: float = Field(default=0.01, ge=0)
    checkpoint_every: int = Field(default=25, ge=1)
    """Epochs between checkpoints."""
    seed: int = 2024

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.channels or min(self.channels) < 1:
            raise ValueError(
                f"channels: expected numbers above 0, at least one, got {self.channels}"
            )
        if self.pad % 2 ** len(self.channels):
            raise ValueError(
                f"pad {self.pad}: {len(self.channels)} channels halve a length so often, so it has to be a multiple of "
                f"{2 ** len(self.channels)}"
            )
        return self
