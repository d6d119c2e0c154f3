"""Local: a causal language model here; its answer is the option that it finds most probable.

    answer = argmax_o  sum_t log p(o_t | prompt, o_<t),    o ends with the end-of-text token

The end counts, or `1` would always be at least as probable as `10`. A base with a chat template is asked by it; another
one reads the prompt as running text. Nothing is drawn, so the same prompt has the same answer.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weft.answering.generation import Generation, prompt_ids
from weft.base.loading import load_base
from weft.config import Settings
from weft.judging.judges.contract import Judge
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.model import Model
from weft.registry import unknown
from weft.storage.loading import DEVICES, available_device

NAME = "judge"


class Spec(Settings):
    """Which base."""

    base: str = Field(min_length=1)
    """An alias, a folder, a GGUF file or a hub id."""
    revision: str | None = None
    """Of a base on the hub."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


class Local(Judge):
    """A base that is read, not sampled."""

    spec_type: ClassVar[type[Settings]] = Spec

    def __init__(self, spec: Spec) -> None:
        if spec.device not in DEVICES:
            raise ValueError(f"device: {unknown('device', spec.device, DEVICES)}")
        self.spec = spec
        self.device = torch.device(available_device() if spec.device == "auto" else spec.device)
        base = load_base(spec.base, revision=spec.revision, device=self.device)
        self.model = Model(base)
        self.model.add(Expert(NAME, {}, Head("causal_lm", base, 0, seed=0)))
        self.model.to(self.device)

    @property
    def description(self) -> dict[str, Any]:
        base = self.model.base
        return {"judge": "local", "base": self.spec.base, "digest": base.digest}

    def answers(self, prompts: Sequence[str], options: Sequence[str]) -> Iterator[str]:
        for prompt in prompts:
            scores = self.log_probabilities(prompt, options)
            yield options[int(scores.argmax())]

    def log_probabilities(self, prompt: str, options: Sequence[str]) -> Tensor:
        """How probable each option is as the whole answer, (options,), natural logarithms."""
        base = self.model.base
        chats = bool(base.tokenizer.chat_template)
        own = [self._option(option, chats=chats) for option in options]
        width = max(map(len, own))
        asked = [{"role": "user", "content": prompt}] if chats else f"{prompt}\n"
        settings = Generation(max_new_tokens=width)
        ids = prompt_ids(base, asked, settings, f"prompt {prompt[:40]!r}")
        rows = torch.tensor([row + [0] * (width - len(row)) for row in own], device=self.device)
        held = self.model.snapshot
        writer: Any = held.head(NAME).assembled(held.trunk)
        with torch.inference_mode(), held.routed(None):
            read = writer(torch.tensor([ids], device=self.device), use_cache=True)
            logits = read.logits[:, -1:].expand(len(own), -1, -1)
            if width > 1:
                # The prompt is read once for all options.
                read.past_key_values.batch_repeat_interleave(len(own))
                behind = writer(rows[:, :-1], past_key_values=read.past_key_values)
                logits = torch.cat([logits, behind.logits], dim=1)
        said = logits.double().log_softmax(-1)
        by_token = said.gather(2, rows.unsqueeze(2)).squeeze(2).cpu()
        # What stands behind an option's end is padding, and causal attention keeps it from what is before.
        real = torch.arange(width).unsqueeze(0) < torch.tensor([len(row) for row in own]).unsqueeze(
            1
        )
        return (by_token * real).sum(1)

    def _option(self, option: str, *, chats: bool) -> list[int]:
        tokenizer = self.model.base.tokenizer
        ids = tokenizer(option, add_special_tokens=False)["input_ids"]
        end = tokenizer.eos_token_id
        return [*ids, *([end] if isinstance(end, int) else [])]
