"""Our training against PEFT's model in a plain loop: same start, batches and optimizer, same weights after."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    get_linear_schedule_with_warmup,
)

from weft.config import load_run
from weft.model.batching import collate
from weft.training.assembly import assemble
from weft.training.loop import train
from weft.training.settings import completed

STEPS = 20

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
CLASSES = {"topic": AutoModelForSequenceClassification, "tags": AutoModelForTokenClassification}


@pytest.mark.parametrize(
    ("base", "task"),
    [("bert", "topic"), ("bert", "tags"), ("distilbert", "topic"), ("gpt2", "tags")],
)
def test_twenty_steps_equal_peft(
    run_of: Callable[..., dict[str, Any]], tmp_path: Path, base: str, task: str
) -> None:
    training = {"max_steps": STEPS, "warmup": 0.0, "learning_rate": 1e-2, "max_grad_norm": 0.5}
    run = run_of(task, base=base, training=training)
    folder = train(run, out=tmp_path / "run")
    ours = load_file(folder.expert / "adapter_model.safetensors")

    start = assemble(completed(load_run(run)), torch.device("cpu"))
    expert = start.learners[0].experts[0][0]
    stream = start.learners[0].streams[0]
    assert expert.head is not None
    model = CLASSES[task].from_pretrained(
        run["base"], num_labels=stream.task.num_labels, dtype=torch.float64
    )
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=list(expert.adapters),
        modules_to_save=sorted({name.partition(".")[0] for name in expert.head.trained_names()}),
        fan_in_fan_out=base == "gpt2",
    )
    peft = get_peft_model(model, config).double()
    prefix = f"base_model.model.{expert.head.prefix}"
    wanted = {f"{prefix}.{m}.lora_A.default.weight": a.A for m, a in expert.adapters.items()}
    wanted |= {f"{prefix}.{m}.lora_B.default.weight": a.B for m, a in expert.adapters.items()}
    for name, value in expert.head.state().items():
        part, _, rest = name.partition(".")
        wanted[f"base_model.model.{part}.modules_to_save.default.{rest}"] = value
    trained = {name: p for name, p in peft.named_parameters() if p.requires_grad}
    assert trained.keys() == wanted.keys()
    with torch.no_grad():
        for name, value in wanted.items():
            trained[name].copy_(value)
    for module in peft.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    peft.train()
    decayed = [p for p in trained.values() if p.dim() >= 2]
    rest = [p for p in trained.values() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, STEPS)
    for step in range(STEPS):
        batch = collate(stream.items(step), start.base.tokenizer.pad_token_id or 0)
        labels = batch.parts[0].labels
        peft(**batch.inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 0.5)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    for name, value in trained.items():
        saved = name.replace(".modules_to_save.default", "").replace(".default.weight", ".weight")
        torch.testing.assert_close(ours[saved], value.detach(), rtol=0, atol=1e-8, msg=name)
