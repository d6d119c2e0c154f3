"""What is read, and the states of it: words, trees, labels, and what each map adds; against plain loops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import weft
from tests.analysis.conftest import WORDS
from tests.merging.runs import Made
from weft.analysis.contributions import contributions_of
from weft.analysis.study import Study, route_of
from weft.analysis.subjects import find, read
from weft.analysis.texts import LONGEST, Sentence, corpus_of, read_conllu
from weft.answering.inference import padding_id
from weft.base.loading import Base, load_base


@pytest.fixture
def study(made: Made, trees: Path) -> Study:
    runs = [made("topic"), made("tags", targets=["query", "ffn_in"], rank=3)]
    return Study(*read(find(runs), torch.device("cpu")), trees)


def test_a_treebank_s_words_alone_are_read(trees: Path) -> None:
    found = read_conllu(trees / "ud_ewt" / "validation.conllu")
    assert len(found) == 24
    assert found[0].words == WORDS
    assert found[1].words == (*WORDS[1:], WORDS[0])
    assert set(found[0].relations) == {"det", "amod", "nsubj", "root", "obj"}
    for sentence in found:
        root = sentence.words[sentence.heads.index(0)]
        assert root == "found"
        of_dog = sentence.words[sentence.heads[sentence.words.index("dog")] - 1]
        assert of_dog == "found"


@pytest.mark.parametrize(
    ("line", "said"),
    [("1\tone\t_", "expected ten columns"), ("1\tone\t_\tX\t_\t_\t2\tdep\t_\t_", "has a head")],
)
def test_a_damaged_treebank_names_its_line(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.conllu"
    path.write_text(f"# a comment\n{line}\n\n")
    with pytest.raises(ValueError, match=rf"x\.conllu:\d: .*{said}"):
        read_conllu(path)


@pytest.mark.parametrize("name", ["bert", "gpt2", "roberta"])
def test_every_word_has_its_own_tokens(name: str, tiny_folder: Callable[[str], Path]) -> None:
    base: Base = load_base(str(tiny_folder(name)))
    words = ("Good", "dogs", "(", "unfound", ")", "river")
    long = ("river",) * (LONGEST + 1)
    sentences = [
        Sentence(own, ("X",) * len(own), (0,) + (1,) * (len(own) - 1), ("dep",) * len(own))
        for own in (words, long, words[:2])
    ]
    corpus, kept = corpus_of("some", sentences, base)
    assert kept == [0, 2]
    assert len(corpus) == 8
    assert corpus.sentence.tolist() == [0] * 6 + [1] * 2
    for record, own, spoken in zip(corpus.records, corpus.units, (words, words[:2]), strict=True):
        ids = record["input_ids"][0]
        for word, places in zip(spoken, own, strict=True):
            text = base.tokenizer.decode([ids[at] for at in places]).strip()
            assert text.casefold() == word.casefold()


@torch.no_grad()
def test_states_are_means_of_a_word_s_tokens_read_alone(study: Study) -> None:
    """Batches pad and sort; sentence by sentence through the merged model nothing is padded."""
    subject = study.subjects[1]
    corpus = study.common(subject)
    found = study.states(corpus, subject)
    plain = subject.model.merged(subject.member)
    start = 0
    for record, own in zip(corpus.records, corpus.units, strict=True):
        inputs = {name: torch.tensor(value) for name, value in record.items()}
        hidden = plain(**inputs, output_hidden_states=True).hidden_states
        for layer, state in enumerate(hidden):
            expected = torch.stack([state[0, list(places)].mean(0) for places in own])
            torch.testing.assert_close(found[layer][start : start + len(own)], expected)
        start += len(own)
    assert start == len(corpus)


@torch.no_grad()
def test_the_base_s_states_do_not_see_the_experts(study: Study) -> None:
    subject = study.subjects[0]
    corpus = study.common(subject)
    before = study.states(corpus, None)
    again = study.twin_states(corpus, subject)
    assert again is not None
    torch.testing.assert_close(before[0], again[0])
    assert not torch.allclose(before[-1], again[-1])
    assert set(study.model.experts) == {"topic", "tags"}


@torch.no_grad()
def test_contributions_are_those_of_a_plain_loop(study: Study) -> None:
    subject = study.subjects[1]
    assert subject.changes is not None
    corpus = study.common(subject)
    weights = {name: study.weight(name) for name in subject.changes}
    found = contributions_of(
        subject.model.snapshot,
        corpus,
        route_of(subject),
        padding_id(study.base),
        changes=subject.changes,
        weights=weights,
    )
    plain, seen = subject.model.merged(subject.member), {}
    for name in subject.changes:

        def keep(module: Any, inputs: Any, output: Any, name: str = name) -> None:
            seen[name] = inputs[0]

        plain.get_submodule(name).register_forward_hook(keep)
    record, own = corpus.records[3], corpus.units[3]
    plain(**{name: torch.tensor(value) for name, value in record.items()})
    start = sum(len(units) for units in corpus.units[:3])
    for name, change in subject.changes.items():
        A, B = change.pair
        x = seen[name][0]
        ratio = (x @ (B @ A).T).norm(dim=-1) / (x @ weights[name].T).norm(dim=-1)
        expected = torch.stack([ratio[list(places)].mean() for places in own])
        torch.testing.assert_close(found[name][start : start + len(own)], expected)


def test_labels_of_the_own_task_say_what_tokens_are(made: Made) -> None:
    runs = [made("tags"), made("where"), made("topic")]
    study = Study(*read(find(runs), torch.device("cpu")))
    tagged, spans, plain = (study.rows(subject) for subject in study.subjects)
    assert set(tagged.tags["label of the task"]) == {"O", "animal"}
    for record, own in zip(tagged.records, tagged.units, strict=True):
        words = [study.base.tokenizer.decode([record["input_ids"][0][at]]) for (at,) in own]
        labels = tagged.tags["label of the task"]
        assert len(labels) == len(tagged)
        assert words
    flat = [
        study.base.tokenizer.decode([record["input_ids"][0][at]])
        for record, own in zip(tagged.records, tagged.units, strict=True)
        for (at,) in own
    ]
    assert [tag == "animal" for tag in tagged.tags["label of the task"]] == [
        word in ("cat", "dog") for word in flat
    ]
    assert set(spans.tags["label of the task"]) == {"question", "passage", "answer"}
    assert plain.tags == {}


@pytest.mark.slow
def test_full_training_and_mixtures_are_asked_too(
    run_of: Callable[..., dict[str, Any]], trees: Path, tmp_path: Path
) -> None:
    lora = {"name": "lora", "rank": 2, "targets": ["query", "value"]}
    one = weft.train(run_of("topic", recipe=lora), out=tmp_path / "one").path
    two = weft.train(run_of("tags", recipe=lora), out=tmp_path / "two").path
    full = weft.train(run_of("topic", recipe={"name": "full"}), out=tmp_path / "full").path
    settings = run_of("topic")
    del settings["task"]
    mixed = weft.train(
        {**settings, "mixture": {"name": "uniform", "runs": [str(one), str(two)]}},
        out=tmp_path / "mixed",
    ).path
    asked = ["sizes", "spectra", "displacement", "contribution"]
    found = weft.analyze([one, full, mixed], asked, out=tmp_path / "out", data=trees)
    by_name = {name: answer["numbers"] for name, answer in found.values["questions"].items()}
    weights = {"one", "full"}
    assert {number["of"] for number in by_name["sizes"]} == weights
    assert {number["of"] for number in by_name["displacement"]} == {*weights, "topic", "tags"}
    assert {number["of"] for number in by_name["contribution"]} == weights
    assert all(number["value"] > 0 for number in by_name["displacement"])
