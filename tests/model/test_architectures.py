"""Every kind that is listed for a base answers as transformers does and trains; what cannot is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from tests.architectures import randomised, save, text_model_types, tiny_config
from weft.base.forms import refusal, trunk_class
from weft.base.loading import load_base
from weft.config import RecipeSettings
from weft.lowrank.roles import layer_index
from weft.methods.recipes import resolve
from weft.model.batching import Item, collate
from weft.model.expert import build
from weft.model.head import Head
from weft.model.heads import fitting, kind_of
from weft.model.model import Model
from weft.model.passage import served

SELECTED = {
    "albert": set(),
    "big_bird": set(),
    "deberta-v2": set(),
    "opt": set(),
    "mixtral": set(),
    "gemma2": set(),
    "layoutlm": set(),
    # Both pick a row's last place, padding or not.
    "xlnet": {"multiple_choice", "sequence_classification"},
    # They have the trunk look at some tokens from everywhere, as their tasks ask for.
    "longformer": {"multiple_choice", "sequence_classification", "span_extraction"},
}
"""Model types of the short run, and the kinds that transformers lists for them and cannot be served."""
REFUSED = {
    "fnet": "cannot tell padding from text",
    "convbert": "cannot tell padding from text",
    "bart": "is an encoder with a decoder",
    "t5": "is an encoder with a decoder",
    "gemma3": "is more than a text model; take a checkpoint of its text part \\(gemma3_text\\)",
    "bros": "does not read tokens alone: You have to specify bbox",
    "git": "is more than a text model: its config has vision_config",
    "mra": "computes no attention here",
}
UNREADABLE = {"deepseek_v4": r"lacks tensors its config asks for: norm\.weight"}
"""Whose checkpoints of a task class transformers' own `AutoModel` does not read whole."""
CANNOT_RUN = (
    StrictDataclassError,
    ValueError,
    TypeError,
    RuntimeError,
    AttributeError,
    LookupError,
    ImportError,
    ArithmeticError,
)
"""What transformers raises where these sizes make no model of a type."""


def rows_of(kind: str) -> list[list[list[int]]]:
    """Two rows of unequal length; a pair of equal sequences each, where rows have several."""
    generator = torch.Generator().manual_seed(1)

    def sequence(length: int) -> list[int]:
        return [2, *torch.randint(5, 90, (length - 2,), generator=generator).tolist(), 3]

    count = 2 if kind in ("multiple_choice", "embedding") else 1
    return [[sequence(size) for _ in range(count)] for size in (12, 7)]


def labels_of(kind: str, row: list[list[int]]) -> Any:
    if kind in ("sequence_classification", "multiple_choice"):
        return 1
    if kind == "embedding":
        return [[0.0, 20.0, 1 / len(row[0])]] * len(row)
    if kind == "span_extraction":
        return [[1, 2]] * len(row)
    return [[1] * len(ids) if kind == "token_classification" else ids for ids in row]


def task_class(kind: str, model_type: str) -> PreTrainedModel:
    """Transformers' own, random; its base's folder is made from it."""
    config = tiny_config(model_type)
    config.num_labels = 3 if kind_of(kind).has_classes else 2
    auto = getattr(transformers, kind_of(kind).auto)
    return randomised(auto._model_mapping[type(config)], config)


def trunk_of(model: PreTrainedModel) -> PreTrainedModel:
    kind = trunk_class(model.config)
    if type(model) is kind:
        return model
    return next(part for part in model.children() if type(part) is kind)  # type: ignore[return-value]


def answers(model: PreTrainedModel, kind: str) -> list[Tensor]:
    """Transformers' logits of each row alone, so that padding cannot have a part in them."""
    found = []
    with torch.no_grad():
        for row in rows_of(kind):
            ids = torch.tensor(row)[None] if kind_of(kind).compares else torch.tensor(row)
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
            pooled = kind == "embedding"
            found.append(output[0].mean(1) if pooled else kind_of(kind).logits(output))
    return found


def check_kind(kind: str, model: PreTrainedModel, folder: Path) -> None:
    """The base of `model` answers as it does, in one padded batch, and takes a training step."""
    # A language model's own head is the checkpoint's; the others are trained.
    save(model if kind_of(kind).language_model else trunk_of(model), folder)
    base = load_base(str(folder))
    head = Head(kind, base, 3, seed=1)
    own = dict(model.named_parameters(remove_duplicate=False))
    head.load_state({name: own[name].detach() for name in head.trained_names()})
    weft = Model(base)
    weft.add(build("plain", base, resolve(RecipeSettings(name="head")), head, 0))
    weft.eval()
    rows = rows_of(kind)
    records = [
        {"id": str(at), "input_ids": row, "labels": labels_of(kind, row)}
        for at, row in enumerate(rows)
    ]
    with torch.no_grad():
        batch = collate([Item("plain", kind, (), record) for record in records], 0)
        got = weft(batch)["plain"]
    for at, wanted in enumerate(answers(model, kind)):
        one = got[at * len(wanted) : (at + 1) * len(wanted)]
        one = one if one.shape == wanted.shape else one[:, : wanted.shape[1]]
        # Single precision through two layers, logits of size 1 to 10.
        torch.testing.assert_close(one, wanted, rtol=1e-5, atol=1e-5)
    has_maps = any(
        isinstance(part, nn.Linear) and layer_index(name) is not None
        for name, part in base.trunk.named_modules()
    )
    recipe = resolve(RecipeSettings(name="lora", rank=2, targets=["all-linear"]))  # type: ignore[call-arg]
    if not has_maps:
        with pytest.raises(ValueError, match="has no linear maps"):
            build("tuned", base, recipe, head, 0)
        recipe = resolve(RecipeSettings(name="head"))
    expert = build("tuned", base, recipe, Head(kind, base, 3, seed=2), 0)
    if not expert.trained():
        return  # a language model's head is the checkpoint's
    with torch.no_grad():
        for value in expert.trained().values():
            value.add_(0.02 * torch.randn_like(value))
    weft.add(expert, trainable=True)
    weft.train()
    speaking = ("tuned",) if has_maps else ()
    batch = collate([Item("tuned", kind, speaking, record) for record in records], 0)
    labels = batch.parts[0].labels
    assert labels is not None
    loss = kind_of(kind).loss(weft(batch)["tuned"], labels, 0.0)
    assert loss.isfinite()
    loss.backward()
    lost = [
        name
        for name, value in expert.trained().items()
        if value.grad is None or not value.grad.isfinite().all()
    ]
    assert lost == []


@pytest.mark.parametrize("model_type", SELECTED)
def test_listed_kinds_answer_as_transformers_and_train(model_type: str, tmp_path: Path) -> None:
    config = tiny_config(model_type)
    listed = served(config)
    assert set(fitting(config)) - set(listed) == SELECTED[model_type]
    for kind in listed:
        check_kind(kind, task_class(kind, model_type), tmp_path / kind)


@pytest.mark.parametrize("model_type", [name for name, kinds in SELECTED.items() if kinds])
def test_what_is_not_listed_is_refused_before_any_work(model_type: str, tmp_path: Path) -> None:
    model = randomised(
        AutoModel._model_mapping[type(tiny_config(model_type))], tiny_config(model_type)
    )
    base = load_base(str(save(model, tmp_path / "base")))
    for kind in SELECTED[model_type]:
        with pytest.raises(ValueError, match=r"^transformers' \w+For\w+ (hands|answers|cannot)"):
            Head(kind, base, 3, seed=1)


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_trunk_that_cannot_be_a_base_is_refused_by_its_config(
    model_type: str, tmp_path: Path
) -> None:
    made = tiny_config(model_type) if model_type in ("fnet", "convbert", "mra") else None
    config = made or transformers.CONFIG_MAPPING[model_type]()
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=f"cannot be a base: {model_type} {REFUSED[model_type]}"):
        load_base(str(tmp_path))


@pytest.mark.slow  # some two hundred architectures
@pytest.mark.parametrize("model_type", text_model_types())
def test_every_model_type_is_right_or_refused(model_type: str, tmp_path: Path) -> None:
    try:
        config = tiny_config(model_type)
        if (reason := refusal(config)) is not None:
            assert reason
            return
        listed = served(config)
        models = {kind: task_class(kind, model_type) for kind in listed}
        for kind, model in models.items():
            answers(copy.deepcopy(model), kind)
    except CANNOT_RUN as error:
        pytest.skip(f"transformers cannot make it small: {type(error).__name__}: {error}"[:200])
    for kind, model in models.items():
        if model_type in UNREADABLE and kind_of(kind).is_trunk:
            # The trunk's own checkpoint is read; but its grouped output map is no plain linear map, so no term fits it.
            load_base(str(save(model, tmp_path / kind)))
        elif model_type in UNREADABLE:
            save(model, tmp_path / kind)
            with pytest.raises(ValueError, match=UNREADABLE[model_type]):
                load_base(str(tmp_path / kind))
        else:
            check_kind(kind, model, tmp_path / kind)
