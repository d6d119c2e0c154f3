"""What `weft.load` gives: the answers of the commands, what lies below them, and experts that come and go."""

import csv
import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import weft
from tests.training.mixed_runs import Runs, runs_of
from weft.answering.evaluation import read_predictions
from weft.answering.raw import Axes
from weft.cli import app
from weft.model.heads import kind_of
from weft.runs import RunFolder
from weft.storage.loading import load_run_model

TEXTS = ["the good dog", "a bad film", "the old city was big and red", "john said no"]
ROWS: dict[str, list[dict[str, Any]]] = {
    "topic": [{"text": text} for text in TEXTS],
    "tags": [{"tokens": text.split()} for text in TEXTS],
    "endings": [{"context": text, "prefix": "the", "choices": ["a", "red cat", "no"]} for text in TEXTS],
    "where": [{"question": "who", "context": f"{text} " * 5} for text in TEXTS],
    "fill": [{"text": f"{text} [MASK]"} for text in TEXTS],
}  # fmt: skip


@pytest.fixture(scope="session")
def runs(
    tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    return runs_of(tiny_folder, tasks_folder, tmp_path_factory)


@pytest.fixture(scope="session")
def several(runs: Runs) -> RunFolder:
    """Experts of every kind an encoder has, trained together in double precision."""
    return runs.experts("bert")


@pytest.fixture
def model(several: RunFolder) -> weft.Predictor:
    return weft.load(several.path, device="cpu")


def spoken(*arguments: object) -> list[Any]:
    said = CliRunner().invoke(app, ["predict", *map(str, arguments), "--json"])
    assert said.exit_code == 0, said.stderr
    return [json.loads(line) for line in said.stdout.splitlines()]


def test_all_experts_of_a_run_answer_on_one_model_as_the_command_does(
    model: weft.Predictor, several: RunFolder
) -> None:
    assert set(model.experts) == set(ROWS)
    assert len(model.model.experts) == len(ROWS)
    for task, rows in ROWS.items():
        alone = weft.predict(several.path / task, rows, device="cpu")
        assert model.predict(rows, task=task) == alone
        assert model.expert(task).predict(rows) == alone
    assert [*model.expert("topic").predict(TEXTS)] == spoken(
        several.path, *TEXTS, "--task", "topic"
    )


def test_answers_to_the_validation_rows_are_those_of_evaluation(
    several: RunFolder, tasks_folder: Path
) -> None:
    weft.evaluate(several.path, device="cpu")
    for task, file in (("topic", "validation.csv"), ("tags", "validation.conll")):
        found = weft.predict(several.path, tasks_folder / task / file, task=task, device="cpu")
        scored = list(read_predictions(several.path / task).values())
        assert [{**row, "id": None} for row in found] == [{**row, "id": None} for row in scored]


def test_a_view_has_what_a_loaded_run_has(several: RunFolder) -> None:
    view = weft.load(several.path, task="tags", device="cpu")
    loaded = load_run_model(several.path, task="tags", device="cpu")
    for name in ("card", "run", "name", "device", "precision", "members", "recogniser"):
        assert getattr(view, name) == getattr(loaded, name), name
    assert view.task.spec == loaded.task.spec
    assert view.tokenizer("the dog").input_ids == view.base.tokenizer("the dog").input_ids


def test_which_of_several_answers_has_to_be_said(model: weft.Predictor) -> None:
    with pytest.raises(ValueError, match=r"there are several experts here: .*name one, task="):
        model.predict(TEXTS)
    with pytest.raises(KeyError, match=r"no expert named 'topics'\. Did you mean 'topic'"):
        model.expert("topics")
    with pytest.raises(ValueError, match="only a mixture recognises tasks; name one of"):
        model.predict(TEXTS, task="auto")


def test_answers_come_as_chunks_are_done_from_endless_inputs(model: weft.Predictor) -> None:
    read = count()

    def endless() -> Iterator[str]:
        for at in read:
            yield TEXTS[at % len(TEXTS)]

    found = model.predict_iter(endless(), task="topic", chunk=3)
    first = [next(found) for _ in range(4)]
    # Two chunks were read, and no more of what has no end.
    assert next(read) == 6
    expected = model.predict(TEXTS, task="topic")
    assert [row["id"] for row in first] == ["0", "1", "2", "3"]
    for one, other in zip(first, expected, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], rel=1e-9)
    bad = model.predict_iter([*TEXTS, {"txt": "x"}], task="topic", chunk=2)
    assert len([next(bad) for _ in range(4)]) == 4
    with pytest.raises(ValueError, match="input 4: text is missing"):
        next(bad)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        model.predict_iter(TEXTS, task="topic", chunk=0)


def test_every_form_of_rows_has_the_same_answers(model: weft.Predictor, tmp_path: Path) -> None:
    rows = [{**row, "label": "animal"} for row in ROWS["topic"]]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    labels = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["animal", "thing"])}
    )
    forms = [
        pd.DataFrame(rows),
        datasets.Dataset.from_list(rows),
        datasets.Dataset.from_list([{**row, "label": 0} for row in rows], features=labels),
        tmp_path / "rows.csv",
        tmp_path / "rows.jsonl",
        iter(rows),
    ]
    expected = model.predict(TEXTS, task="topic")
    for form in forms:
        assert model.predict(form, task="topic") == expected, type(form)
    assert list(model.predict_iter(pd.DataFrame(rows), task="topic")) == expected
    assert model.predict([], task="topic") == []
    for form, message in (
        ("one text", "got a text"),
        ({"text": "x"}, "got a mapping"),
        (7, "got int"),
    ):
        with pytest.raises(TypeError, match=message):
            model.predict(form, task="topic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no such file; give a file of rows"):
        model.predict(tmp_path / "gone.csv", task="topic")


SHAPES = {
    "topic": (("row", "class"), ("animal", "thing")),
    "tags": (("sequence", "token", "class"), ("O", "B-animal", "I-animal")),
    "endings": (("row", "choice"), ()),
    "where": (("sequence", "token", "outcome"), ("start", "end")),
    "fill": (("sequence", "token", "vocabulary"), ()),
}


@pytest.mark.parametrize("task", ROWS)
def test_logits_are_those_of_the_merged_task_class_of_transformers(
    model: weft.Predictor, task: str
) -> None:
    run = model.loaded(task)
    found = model.logits(ROWS[task], task=task)
    assert (found.axes, found.names) == SHAPES[task]
    assert found.values.dtype == torch.float64
    head = run.model.expert(task).head
    assert head is not None
    whole = head.assembled(run.model.merged(task)).eval()
    for at, row in enumerate(ROWS[task]):
        record = run.task.encode({"id": "0", "prefix": "", **row}, model.tokenizer)
        answers = []
        inputs = [
            {
                key: torch.tensor([ids])
                for key, ids in zip(("input_ids", "token_type_ids"), pair, strict=True)
            }
            for pair in zip(record["input_ids"], record["token_type_ids"], strict=True)
        ]
        if task == "endings":
            width = max(own["input_ids"].shape[1] for own in inputs)
            padded = {key: torch.zeros(1, 3, width, dtype=torch.long) for key in inputs[0]}
            mask = torch.zeros(1, 3, width, dtype=torch.long)
            for number, own in enumerate(inputs):
                length = own["input_ids"].shape[1]
                mask[0, number, :length] = 1
                for key, value in own.items():
                    padded[key][0, number, :length] = value[0]
            inputs = [{**padded, "attention_mask": mask}]
        with torch.no_grad():
            answers = [kind_of(run.task.spec.kind).logits(whole(**own))[0] for own in inputs]
        assert len(found.of(at)) == len(answers)
        for own, expected in zip(found.of(at), answers, strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-9)
    padding = found.values[~found.mask] if found.mask.dim() > 1 else found.values[:0]
    assert not padding.any()


def test_states_of_every_layer_are_the_merged_trunks(model: weft.Predictor) -> None:
    plain = model.model.merged("where").eval()
    record = model.loaded("where").task.encode({"id": "0", **ROWS["where"][2]}, model.tokenizer)
    assert len(record["input_ids"]) > 1
    states: list[tuple[torch.Tensor, ...]] = []
    for ids, types in zip(record["input_ids"], record["token_type_ids"], strict=True):
        given = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
        with torch.no_grad():
            states.append(plain(**given, output_hidden_states=True).hidden_states)
    for layer in (0, 1, 2, -1, -3):
        found = model.hidden(ROWS["where"], task="where", layer=layer)
        assert found.axes == ("sequence", "token", "hidden")
        for own, expected in zip(found.of(2), states, strict=True):
            torch.testing.assert_close(own, expected[layer][0], rtol=1e-9, atol=1e-9)
    for pool, expected in (
        ("mean", [own[-1][0].mean(0) for own in states]),
        ("first", [own[-1][0, 0] for own in states]),
        ("last", [own[-1][0, -1] for own in states]),
    ):
        pooled = model.hidden(ROWS["where"], task="where", pool=pool)  # type: ignore[arg-type]
        assert pooled.axes == ("sequence", "hidden")
        for own, other in zip(pooled.of(2), expected, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"layer 3: .* has the embeddings, 0, and layers 1 to 2"):
        model.hidden(TEXTS, task="topic", layer=3)
    with pytest.raises(ValueError, match="pool 'max': expected mean, first, last or None"):
        model.hidden(TEXTS, task="topic", pool="max")  # type: ignore[arg-type]


def test_shapes_are_said_in_words(model: weft.Predictor) -> None:
    found = model.logits(TEXTS, task="topic")
    assert found.shape == {"row": 4, "class": 2}
    assert repr(found) == "Axes(4 row x 2 class: animal, thing; float64)"
    empty = model.logits([], task="topic")
    assert isinstance(empty, Axes)
    assert empty.of(0) == []


def test_an_expert_of_another_run_is_woven_in_and_taken_out(several: RunFolder) -> None:
    model = weft.load(several.path / "topic", device="cpu")
    before = model.predict(TEXTS)
    tags = model.attach(several.path, task="tags")
    assert tags.predict(ROWS["tags"]) == weft.predict(several.path / "tags", ROWS["tags"])
    assert model.expert("topic").predict(TEXTS) == before
    assert model.experts == ("topic", "tags")
    assert tags.model is model.model
    with pytest.raises(ValueError, match="named 'tags' is resident"):
        model.attach(several.path / "tags")
    twin = model.attach(several.path / "tags", name="twin")
    assert [{**one} for one in twin.predict(ROWS["tags"])] == tags.predict(ROWS["tags"])
    model.detach("twin")
    model.detach("tags")
    assert (model.experts, list(model.model.experts)) == (("topic",), ["topic"])
    with pytest.raises(ValueError, match="the only expert here"):
        model.detach("topic")
    # One of several whose name is taken: none of them comes.
    last = weft.load(several.path / several.parts()[-1].path.name, device="cpu")
    with pytest.raises(ValueError, match=f"named '{last.name}' is resident"):
        last.attach(several.path)
    assert list(last.model.experts) == [last.name]
    with pytest.raises(ValueError, match="so one name is not enough"):
        model.attach(several.path, name="x")


def test_what_does_not_belong_is_refused_with_the_reason(
    several: RunFolder, runs: Runs, run_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    model = weft.load(several.path / "topic", device="cpu")
    other = weft.train(run_of("tags", base="distilbert"), out=tmp_path / "other")
    with pytest.raises(ValueError, match="expert for another base: it was trained on"):
        model.attach(other.path)
    full = weft.train(run_of("tags", recipe="full"), out=tmp_path / "full")
    with pytest.raises(ValueError, match="holds a whole trained model, no expert to weave in"):
        model.attach(full.path)
    mixture = runs.mixture("bert", "xlora", "mixture.layerwise=true")
    with pytest.raises(ValueError, match="holds a mixture, which has its own model"):
        model.attach(mixture.path)
    assert list(model.model.experts) == ["topic"]
    whole = weft.load(full.path, device="cpu")
    assert whole.predict(ROWS["tags"]) == weft.predict(full.path, ROWS["tags"], device="cpu")


def test_a_mixture_answers_by_name_and_by_itself(runs: Runs) -> None:
    folder = runs.mixture("bert", "xlora", "mixture.layerwise=true")
    model = weft.load(folder.path, device="cpu")
    assert set(model.experts) == {part.path.name for part in folder.parts()}
    for task in model.experts:
        assert model.predict(ROWS[task], task=task) == weft.predict(
            folder.path, ROWS[task], task=task, device="cpu"
        )
    found = model.predict(TEXTS, task="auto")
    assert found == weft.predict(folder.path, TEXTS, task="auto", device="cpu")
    assert found == spoken(folder.path, *TEXTS, "--task", "auto")
    assert list(model.predict_iter(TEXTS, task="auto")) == found
    with pytest.raises(ValueError, match=r"several experts here: .*, or 'auto'"):
        model.predict(TEXTS)
    part = weft.load(folder.path / "tags", device="cpu")
    assert part.name == "tags"
    assert part.predict(ROWS["tags"]) == model.predict(ROWS["tags"], task="tags")
    assert part.hidden(ROWS["tags"], layer=1).shape["hidden"] == 32
    with pytest.raises(ValueError, match="a head of the mixture here, which stays whole"):
        model.detach("tags")


def test_decoders_continue_and_show_their_logits(runs: Runs) -> None:
    folder = runs.experts("gpt2")
    model = weft.load(folder.path, device="cpu").expert("go_on")
    how = {"max_new_tokens": 5}
    found = model.predict(TEXTS, generation=how)
    assert found == spoken(folder.path, *TEXTS, "--task", "go_on", "--max-new-tokens", 5)
    assert list(model.predict_iter(TEXTS, generation=how)) == found
    # Of the sequences as training sees them, the likeliest next token of each place.
    logits = model.logits(TEXTS)
    assert logits.axes == ("sequence", "token", "vocabulary")
    head = model.model.expert("go_on").head
    assert head is not None
    whole = head.assembled(model.model.merged("go_on")).eval()
    ids = model.task.encode({"id": "0", "text": TEXTS[2]}, model.tokenizer)["input_ids"]
    for own, sequence in zip(logits.of(2), ids, strict=True):
        with torch.no_grad():
            expected = whole(input_ids=torch.tensor([sequence])).logits[0]
        torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="max_new_token"):
        model.predict(TEXTS, generation={"max_new_token": 5})
    with pytest.raises(ValueError, match="generation settings are for causal language models"):
        weft.load(folder.path, task="topic", device="cpu").predict(TEXTS, generation=how)


def test_a_summary_says_what_is_there(several: RunFolder) -> None:
    model = weft.load(several.path / "topic", device="cpu")
    training = several.parts()[0].training
    assert training is not None
    row = {one["name"]: one for one in RunFolder(several.path / "topic").metrics}["accuracy"]
    (said,) = model.summary()
    # rank 2 on query and value of 2 layers of width 32, and a classifier of 2 x (32 + 1)
    trained = training["adapter_parameters"] + 2 * 33
    assert said == {
        "expert": "topic",
        "kind": "sequence_classification",
        "method": "lora",
        "labels": "animal, thing",
        "score": f"accuracy {row['value']:.4g} [{row['low']:.4g}, {row['high']:.4g}] on validation",
        "parameters": f"{trained:,}",
    }
    assert repr(model).splitlines()[0].startswith("Predictor on ")
    assert "topic  sequence_classification  lora  animal, thing  accuracy" in repr(model)
    view = model.attach(several.path / "tags", name="<b>")
    assert "answering with <b>" in repr(view)
    html = view._repr_html_()
    assert html.count("<tr>") == 3
    assert "<td>&lt;b&gt;</td>" in html
    assert "<b>" not in html.replace("<div><b>", "")
