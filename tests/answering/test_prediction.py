"""What people ask and get back: fields, offsets, order, the same answers in any company."""

import io
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.answering.generation import Generation, generate
from weft.answering.inputs import read_jsonl_lines
from weft.answering.prediction import predict, predict_mixed
from weft.base.loading import Base, load_base
from weft.config import RecipeSettings, Run
from weft.data.reading import find_spec
from weft.methods.recipes import resolve
from weft.model.card import Card
from weft.model.expert import build
from weft.model.folded import is_folded
from weft.model.head import Head
from weft.model.model import Model
from weft.runs import RunFolder
from weft.storage.experts import save_expert, save_full
from weft.storage.loading import load_run_model
from weft.tasks.contract import Prediction, Task, TaskSpec
from weft.tasks.kinds import kinds
from weft.tasks.sets import sets

TWEET = "  John was in New-Paris, and it's big!"
SPECS: dict[str, dict[str, Any]] = {
    "sequence_classification": {"labels": ["bad", "good"]},
    "token_classification": {"labels": ["O", "B-x", "I-x"]},
    "span_extraction": {"max_length": 40, "stride": 8},
    "multiple_choice": {"options": {"choices": 2}},
    "masked_lm": {},
    "embedding": {},
    "causal_lm": {},
}
CONTEXT = "the river was in paris and the old city of london had a big house for john and mary"
ROWS: list[tuple[str, Any]] = [
    ("span_extraction", {"question": "who", "context": f"{CONTEXT} {CONTEXT}"}),
    ("token_classification", TWEET),
    ("multiple_choice", {"id": "mine", "context": "the dog", "choices": ["said it", "went"]}),
    ("sequence_classification", "a good film"),
    ("masked_lm", "the [MASK] dog was [MASK]"),
    ("embedding", {"text_a": "a good film", "text_b": CONTEXT, "score": "?"}),
    ("token_classification", {"tokens": ["john", "was", "here"], "tags": ["B-x", "?", "O"]}),
    (
        "sequence_classification",
        {"id": 7, "text": CONTEXT, "text_pair": "no", "label": "unheard of"},
    ),
]


def loaded(model_type: str, kind_names: list[str], folder: Path) -> tuple[Model, dict[str, Task]]:
    """A tiny base with a moved LoRA expert for each kind, called by the kind's name."""
    base = load_base(str(folder))
    model = Model(base)
    tasks = {}
    for seed, kind in enumerate(kind_names):
        spec = TaskSpec.model_validate({"name": kind, "kind": kind, **SPECS[kind]})
        tasks[kind] = kinds.load(kind)(spec, SPECS[kind].get("labels", []))
        recipe = resolve(RecipeSettings(name="lora", rank=2 + seed % 2, targets="all-linear"))
        expert = build(kind, base, recipe, Head(kind, base, tasks[kind].num_labels, seed), seed)
        with torch.no_grad():
            for number, adapter in enumerate(expert.adapters.values()):
                noise = torch.Generator().manual_seed(50 * seed + number)
                adapter.B.copy_(0.3 * torch.randn(adapter.B.shape, generator=noise))
        model.add(expert)
    return model, tasks


@pytest.fixture(scope="module")
def readers(tiny_folder: Callable[[str], Path]) -> tuple[Model, dict[str, Task]]:
    return loaded("bert", [kind for kind in SPECS if kind != "causal_lm"], tiny_folder("bert"))


@pytest.fixture(scope="module")
def answers(readers: tuple[Model, dict[str, Task]]) -> list[Prediction]:
    model, tasks = readers
    return predict_mixed(model, tasks, ROWS, device="cpu")


def same(a: Any, b: Any) -> bool:
    """Equal, numbers to 1e-5."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == pytest.approx(b, rel=1e-5, abs=1e-5) if isinstance(a, float) else a == b


def test_mixed_company_changes_no_answer(
    readers: tuple[Model, dict[str, Task]], answers: list[Prediction]
) -> None:
    model, tasks = readers
    for number, row in enumerate(ROWS):
        [alone] = predict_mixed(model, tasks, [row], device="cpu", tokens_per_batch=1)
        given = isinstance(row[1], dict) and "id" in row[1]
        assert same({**alone, "id": alone["id"] if given else str(number)}, answers[number]), row


def test_inputs_are_numbered_unless_they_have_ids(answers: list[Prediction]) -> None:
    assert [row["id"] for row in answers] == ["0", "1", "mine", "3", "4", "5", "6", "7"]


def test_entities_are_found_where_the_user_s_text_has_them(
    readers: tuple[Model, dict[str, Task]], answers: list[Prediction]
) -> None:
    tagged = answers[1]
    assert len(tagged["tags"]) == 10
    assert tagged["entities"], "this seed must find something for the test to mean anything"
    for entity in tagged["entities"]:
        assert TWEET[entity["start"] : entity["end"]] == entity["text"]
        assert entity["type"] == "x"
        assert 0 < entity["score"] <= 1
    assert len(answers[6]["tags"]) == 3


def test_each_kind_answers_in_its_own_form(answers: list[Prediction]) -> None:
    span, _, choice, label, masks, *_ = answers
    whole = f"{CONTEXT} {CONTEXT}"
    assert whole[span["start"] : span["end"]] == span["text"] != ""
    assert span["n_best"][0] == {key: span[key] for key in ("text", "start", "end", "score")}
    assert choice["choice"] == ["said it", "went"][choice["label"]]
    assert sum(choice["probabilities"]) == pytest.approx(1)
    assert label["label"] == max(label["probabilities"], key=label["probabilities"].get)
    assert set(label["probabilities"]) == {"bad", "good"}
    assert [(mask["start"], mask["end"]) for mask in masks["masks"]] == [(4, 10), (19, 25)]
    for mask in masks["masks"]:
        scores = [candidate["score"] for candidate in mask["tokens"]]
        assert len(scores) == 5
        assert scores == sorted(scores, reverse=True)


def test_decoders_write_each_with_its_own_expert(tiny_folder: Callable[[str], Path]) -> None:
    model, tasks = loaded("gpt2", ["causal_lm", "sequence_classification"], tiny_folder("gpt2"))
    rows = [("causal_lm", "the good"), ("sequence_classification", "a film"), ("causal_lm", "one")]
    found = predict_mixed(model, tasks, rows, device="cpu", generation=Generation(max_new_tokens=7))
    expected = generate(
        model, "causal_lm", ["the good", "one"], Generation(max_new_tokens=7), device="cpu"
    )
    assert found[0] == {"id": "0", "continuation": expected[0].text, "tokens": 7}
    assert found[2] == {"id": "2", "continuation": expected[1].text, "tokens": 7}
    [alone] = predict_mixed(model, tasks, [rows[1]], device="cpu")
    assert same({**alone, "id": "1"}, found[1])


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (
            "span_extraction",
            "who?",
            "span_extraction takes more than a text: give a mapping with question and context",
        ),
        (
            "span_extraction",
            {"question": "who", "contxt": "x"},
            "input 0: context is missing; span_extraction needs question and context, "
            "the input has contxt, question",
        ),
        (
            "multiple_choice",
            {"context": "x"},
            r"choices is missing; .* needs context and choices \(optional: prefix\)",
        ),
        (
            "multiple_choice",
            {"context": "x", "choices": ["a"]},
            "1 choices where every row must have 2",
        ),
        ("sequence_classification", {}, r"input 0: text is missing; .* the input has nothing"),
        ("sequence_classification", ["x"], "input 0: expected a text or a mapping with text"),
        ("token_classification", {"words": ["x"]}, "tokens is missing"),
        ("sequence_classification", " ", "input 0: 'text' is empty"),
    ],
)
def test_an_input_that_lacks_something_says_what(
    readers: tuple[Model, dict[str, Task]], kind: str, value: Any, message: str
) -> None:
    model, tasks = readers
    with pytest.raises(ValueError, match=message):
        predict_mixed(model, tasks, [(kind, value)], device="cpu")


def test_an_expert_nobody_loaded_is_refused(readers: tuple[Model, dict[str, Task]]) -> None:
    model, tasks = readers
    with pytest.raises(KeyError, match="Did you mean 'span_extraction'"):
        predict_mixed(model, tasks, [("spans_extracted", "x")], device="cpu")


def test_a_named_set_s_own_columns_are_understood(tiny_folder: Callable[[str], Path]) -> None:
    base = load_base(str(tiny_folder("bert")))
    spec = TaskSpec.model_validate({**sets.read("swag"), "max_length": 40})
    task = kinds.load("multiple_choice")(spec)
    model = Model(base)
    head = Head("multiple_choice", base, task.num_labels, 0)
    model.add(build("swag", base, resolve(RecipeSettings(name="head")), head, 0))
    endings = {f"ending{n}": text for n, text in enumerate(["a", "the dog", "one", "no"])}
    published = {"sent1": "the cat", "sent2": "she", **endings, "label": "2", "gold-source": "gold"}
    canonical = {"context": "the cat", "prefix": "she", "choices": list(endings.values())}
    rows = [("swag", {"id": "x", **row}) for row in (published, canonical)]
    first, second = predict_mixed(model, {"swag": task}, rows, device="cpu")
    assert same(first, second)


def test_json_lines_are_objects_or_texts_and_errors_name_the_line() -> None:
    lines = '{"text": "a"}\n\n"a film"\n'
    assert list(read_jsonl_lines(io.StringIO(lines))) == [{"text": "a"}, "a film"]
    with pytest.raises(ValueError, match="line 3: not JSON: Expecting value at column 10"):
        list(read_jsonl_lines(io.StringIO('{"a": 1}\n\n{"text": a}')))
    with pytest.raises(ValueError, match="line 2: expected an object or a string, got 3"):
        list(read_jsonl_lines(["{}", "3"]))


def run_folder_of(task: Task, base: Base, folder: Path, recipe_name: str = "head") -> Path:
    """A run folder as training leaves it, without the training."""
    run = Run.model_validate({"base": base.name, "task": task.spec.name, "recipe": recipe_name})
    made = RunFolder.create(folder, run)
    recipe = resolve(run.recipe)
    expert = build(task.spec.name, base, recipe, Head(task.spec.kind, base, task.num_labels, 0), 0)
    card = Card(
        task=task.spec.model_dump(mode="json"),
        labels=tuple(task.labels),
        head=task.spec.kind,
        recipe=recipe.describe().model_dump(mode="json"),
        targets=(),
        base=base.name,
        source=base.source,
        revision=None,
        digest=base.digest,
    )
    if recipe_name == "head":
        save_expert(expert, card, base, made.expert)
        return folder
    model = Model(base, private=True)
    with torch.no_grad():
        for number, value in enumerate(model.trunk.parameters()):
            noise = torch.Generator().manual_seed(number)
            value.add_(0.1 * torch.randn(value.shape, generator=noise))
    model.add(expert)
    save_full(model, expert, card, made.expert)
    return folder


def named_task(name: str) -> Task:
    spec = find_spec(name)
    kind = kinds.load(spec.kind)
    return kind(spec, kind.collect_labels(spec, []))


@pytest.mark.parametrize(
    ("script", "task", "form"),
    [
        ("swag_brass_band", "swag", r"(?s)(>| ) 0\.\d\d  A drum line .*\n"),
        ("squad_apollo", "squad", r".+  \(characters \d+-\d+, score [01]\.\d\d\)\n"),
        (
            "wnut17_empire_state",
            "wnut17",
            r"([a-z-]+: .+  \(characters \d+-\d+, score [01]\.\d\d\)\n)+",
        ),
    ],
)
def test_examples_answer_from_a_run_folder(
    script: str,
    task: str,
    form: str,
    minilm: Base,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = run_folder_of(named_task(task), minilm, tmp_path / "run")
    monkeypatch.setattr(sys, "argv", [script, str(folder)])
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / f"{script}.py"))
    assert re.fullmatch(form, capsys.readouterr().out)


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_a_fully_trained_run_answers_with_its_own_weights(
    precision: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = load_base(str(tiny_folder("bert")))
    task = named_task("squad")
    rows = [{"question": "who", "context": CONTEXT}]
    trained, plain = (
        load_run_model(
            run_folder_of(task, base, tmp_path / name, name), device="cpu", precision=precision
        )
        for name in ("full", "head")
    )
    assert {trained.model.trunk.dtype, plain.model.trunk.dtype} == {
        torch.float64 if precision == "fp64" else torch.float32
    }
    assert not same(predict(trained, rows), predict(plain, rows))
    assert same(predict(tmp_path / "full", rows, device="cpu"), predict(trained, rows))


def test_generation_settings_are_refused_where_nothing_is_written(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = load_base(str(tiny_folder("bert")))
    folder = run_folder_of(named_task("squad"), base, tmp_path / "run")
    with pytest.raises(ValueError, match="this expert's kind is span_extraction"):
        predict(folder, [{"question": "a", "context": "b"}], generation=Generation(), device="cpu")


@pytest.mark.parametrize(
    ("precision", "rows", "folds"), [("fp32", 64, True), ("bf16", 64, False), ("fp32", 1, False)]
)
def test_an_expert_alone_is_folded_for_many_tokens_in_full_precision(
    tiny_folder: Callable[[str], Path], precision: str, rows: int, folds: bool
) -> None:
    kind = "sequence_classification"
    model, tasks = loaded("bert", [kind], tiny_folder("bert"))
    predict_mixed(model, tasks, [(kind, CONTEXT)] * rows, device="cpu", precision=precision)
    assert is_folded(model.snapshot, kind) == folds
