"""X-LoRA of weft and of PEFT on tiny decoders, and what each answers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, XLoraConfig, get_peft_model
from peft.tuners.lora import Linear
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from weft.base.loading import Base
from weft.config import MixtureSettings, RecipeSettings, Run, to_yaml
from weft.lowrank.peft.writing import WEIGHTS
from weft.lowrank.route import Route
from weft.methods.gates.trace import GateTrace, traced
from weft.methods.mixtures.contract import Headed
from weft.methods.recipes import resolve
from weft.model.card import Card
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.mixed import Mix
from weft.model.mixing import Ingredient, make_mix
from weft.model.model import Model
from weft.model.recogniser import STATES, Recogniser
from weft.storage.experts import save_expert
from weft.storage.loading import load_run_model
from weft.storage.mixture import save_mixture

TARGETS = {"first": ["query", "value"], "second": ["value", "ffn_out"], "third": ["output"]}
IDS = torch.randint(5, 90, (3, 7), generator=torch.Generator().manual_seed(0))
DTYPES = {"fp64": torch.float64, "fp32": torch.float32}
Answer = tuple[Tensor, dict[str, Tensor]]
"""Logits, and the gates by map in the order of the maps."""


def head_of(
    lab: Any, base: Base, kind: str = "causal_lm", labels: tuple[str, ...] = ()
) -> tuple[Expert, Card]:
    """A head without adapters as the expert `mine`, with its card."""
    expert = Expert("mine", {}, Head(kind, base, len(labels), seed=0))
    return expert, lab.card(base, expert, resolve(RecipeSettings(name="head")), labels)


def mixed_run(
    lab: Any,
    place: Path,
    model_type: str = "llama",
    kind: str = "causal_lm",
    precision: str = "fp64",
    **settings: Any,
) -> Path:
    """The run folder of three experts on different maps, mixed by a head away from its start."""
    owners = {}
    base, labels = None, ()
    for number, (name, targets) in enumerate(TARGETS.items(), 1):
        recipe = {"targets": targets, "rank": number, "alpha": 5}
        made = lab.make(model_type, kind, dtype=DTYPES[precision], **recipe)
        lab.shake(made.expert.trained().values(), seed=number)
        card = replace(made.card, task={**made.card.task, "name": name})
        save_expert(made.expert, card, made.base, place / "trained" / name)
        owners[name] = Ingredient(made.expert, card, place / "trained" / name)
        base, labels = made.base, made.card.labels
    assert base is not None
    said = MixtureSettings(name="xlora", **settings)
    mix = make_mix(said, base, owners, ["mine"], seed=3)
    lab.shake((value for value in mix.parameters() if value.requires_grad), seed=7)
    assert isinstance(mix.mixture, Headed)
    if mix.mixture.standard is not None:
        lab.shake([mix.mixture.standard.mean, mix.mixture.standard.scale], seed=8)
    heads = {"mine": head_of(lab, base, kind, labels)}
    save_mixture(
        place / "run" / "mixture",
        mix,
        base,
        settings=said,
        ingredients=owners,
        heads=heads,
        extra=Recogniser(("mine",), torch.zeros(1, STATES * 32), torch.zeros(1)).tensors(),
    )
    values = {"base": base.source, "task": "mine", "mixture": said.model_dump()}
    run = Run.model_validate(values | {"training": {"precision": precision}})
    (place / "run" / "run.yaml").write_text(to_yaml(run))
    return place / "run"


def asked(mix: Mix, base: Base, head: Head | None) -> Answer:
    """What a mixture answers."""
    assert head is not None
    model = Model(base).eval()
    # Gates are kept in single precision on any base; here they compute as precisely as the base does.
    model.add(mix.to(base.trunk.dtype))
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    with torch.no_grad(), traced(GateTrace()) as trace:
        hidden = model.states(batch, Route.everywhere(mix.name))
        logits = head(hidden, batch["attention_mask"], (1,) * len(IDS))
    model.remove(mix.name)
    return logits, {module: found.gates for module, found in trace.gates.items()}


def ours(run: Path) -> Answer:
    """What the mixture of a run folder answers."""
    loaded = load_run_model(run, device="cpu")
    mix = loaded.model.remove(loaded.members[0])
    assert isinstance(mix, Mix)
    return asked(mix, loaded.model.base, loaded.model.expert(loaded.name).head)


def causal_lm(folder: Path, precision: str = "fp64") -> Any:
    """Transformers' model of a checkpoint, as PEFT's X-LoRA wants it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[precision]).eval()
    model.config.use_cache = False
    return model


class Held(nn.Module):
    """PEFT 0.21.2 finds experts only below something called `model`; GPT-2 calls its trunk `transformer`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)


def theirs(model: Any, trunk: str = "model") -> Answer:
    """What a PEFT X-LoRA answers; its gates after selection and weight, as its layers apply them."""
    with torch.no_grad():
        logits = model.eval()(input_ids=IDS).logits
    mixed = model.base_model
    said, weight = mixed.get_latest_scalings(), mixed.get_global_scaling_weight()
    layers = {name: own for name, own in model.named_modules() if isinstance(own, Linear)}
    # What PEFT has put in the place of a layer's forward knows the layer's number.
    return logits, {
        name.rpartition(f".{trunk}.")[2]: weight
        * own.forward.__self__.get_maybe_topk_scalings(said)
        for name, own in layers.items()
    }


def assert_same(one: Answer, other: Answer, tolerance: float = 1e-10) -> None:
    """Equal logits, and equal gates in the same order of maps."""
    assert_close(one[0], other[0], rtol=tolerance, atol=tolerance)
    assert list(one[1]) == list(other[1])
    assert_close(one[1], other[1], rtol=tolerance, atol=tolerance)


def peft_xlora(lab: Any, place: Path, count: int = 2, **settings: Any) -> tuple[PeftModel, Path]:
    """An X-LoRA that PEFT made of its own experts, and what PEFT's writer left of it."""
    own = LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"])
    base = lab.tiny_folder("llama")
    names = [f"e{at}" for at in range(count)]
    model: Any = get_peft_model(causal_lm(base), own, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, own)
    lab.shake(value for name, value in model.named_parameters() if "lora_" in name)
    model.save_pretrained(place / "experts")
    config = XLoraConfig(
        task_type="CAUSAL_LM",
        hidden_size=32,
        adapters={str(at): str(place / "experts" / name) for at, name in enumerate(names)},
        xlora_size=8,
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mixed: Any = get_peft_model(causal_lm(base), config)
    for value in mixed.base_model.internal_xlora_classifier.parameters():
        value.data = value.float().to(value.dtype)
    mixed.save_pretrained(place / "peft")
    return mixed, place / "peft"


def complete(model: PeftModel, folder: Path) -> None:
    """Put back what PEFT 0.21.2 leaves out of its own file."""
    state = model.state_dict()
    kept = {name: state[name].clone() for name in state if "internal_xlora_classifier" in name}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
