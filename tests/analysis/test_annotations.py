"""What probes are to find: words, pairs and spans with their labels, of files as they are published."""

import sys
from pathlib import Path

import pytest
import torch

import weft
from tests.analysis.conftest import RELATIONS, TAGS, WORDS
from tests.merging.runs import Made
from weft.analysis.probing.annotations import Annotation, Labelled
from weft.analysis.study import Study
from weft.analysis.subjects import find, read
from weft.analysis.texts import read_conllu
from weft.base.loading import load_base, untrained

SENSES = ("_", "_", "n.ANIMAL", "v.cognition", "_", "_", "n.ARTIFACT")
ENTITIES = ("O", "B-person", "I-person", "O", "O", "B-location", "B-location")


def supersenses(count: int) -> str:
    """So many sentences of CoNLL-U-Lex, each the same words from another one on."""
    found = []
    for at in range(count):
        turn = at % len(WORDS)
        rows = []
        for place in range(len(WORDS)):
            own = (place + turn) % len(WORDS)
            columns = ["_"] * 19
            columns[0], columns[1], columns[3] = str(place + 1), WORDS[own], TAGS[own]
            columns[6], columns[7], columns[13] = str(place and 1), "dep", SENSES[own]
            rows.append("\t".join(columns))
        found.append("\n".join(rows))
    return "\n\n".join(found) + "\n\n"


def entities(count: int) -> str:
    rows = "\n".join(f"{word}\t{tag}" for word, tag in zip(WORDS, ENTITIES, strict=True))
    none = "\n".join(f"{word}\tO" for word in WORDS)
    return "\n\n".join([rows, none] * count) + "\n\n"


@pytest.fixture
def data(trees: Path, tmp_path: Path) -> Path:
    """A folder with everything that is annotated."""
    folder = tmp_path / "annotated"
    for name in ("ud_ewt", "streusle", "wnut17"):
        (folder / name).mkdir(parents=True)
    for path in (trees / "ud_ewt").iterdir():
        (folder / "ud_ewt" / path.name).write_text(path.read_text())
    (folder / "streusle" / "train.conllulex").write_text(supersenses(50))
    (folder / "wnut17" / "train.conll").write_text(entities(30))
    (folder / "wnut17" / "validation.conll").write_text(entities(12))
    return folder


@pytest.fixture
def study(made: Made, data: Path) -> Study:
    return Study(*read(find([made("topic")]), torch.device("cpu")), data)


def of(study: Study, name: str) -> Annotation:
    return next(one for one in study.annotations if one.name == name)


def spelled(study: Study, own: Labelled, part: int = 0) -> list[str]:
    """The text of what is looked at for each label, from its tokens."""
    ids = [
        [record["input_ids"][0][token] for token in unit]
        for record, units in zip(own.corpus.records, own.corpus.units, strict=True)
        for unit in units
    ]
    return [study.base.tokenizer.decode(ids[at]) for at in own.parts[:, part].tolist()]


def test_every_word_has_its_part_of_speech(study: Study) -> None:
    own = of(study, "part of speech").train
    tag_of = dict(zip(WORDS, TAGS, strict=True))
    assert len(own.labels) == 40 * len(WORDS)
    assert [tag_of[word] for word in own.words] == list(own.labels)
    assert spelled(study, own) == list(own.words)
    assert own.sentence.tolist() == [at for at in range(40) for _ in WORDS]


def test_a_relation_is_of_a_word_and_its_head(study: Study) -> None:
    own = of(study, "relation").held
    relation_of = dict(zip(WORDS, RELATIONS, strict=True))
    head_of = {
        "the": "dog",
        "good": "dog",
        "dog": "found",
        "a": "house",
        "red": "house",
        "house": "found",
    }
    assert len(own.labels) == 24 * (len(WORDS) - 1)
    assert "root" not in own.labels
    assert [relation_of[word] for word in own.words] == list(own.labels)
    assert spelled(study, own, 1) == [head_of[word] for word in own.words]
    states = torch.randn(2, len(own.corpus), 4)
    both = own.vectors(states)
    assert both.shape == (2, len(own.labels), 8)
    assert torch.equal(
        both[1, 5], torch.cat([states[1, own.parts[5, 0]], states[1, own.parts[5, 1]]])
    )


def test_words_without_a_supersense_are_left_out_and_some_sentences_are_held(study: Study) -> None:
    own = of(study, "supersense")
    sense_of = {word: sense for word, sense in zip(WORDS, SENSES, strict=True) if sense != "_"}
    for side, count in ((own.train, 30), (own.held, 20)):
        assert len(side.labels) == count * 3
        assert [sense_of[word] for word in side.words] == list(side.labels)
        assert spelled(study, side) == list(side.words)


def test_an_entity_is_a_span(study: Study) -> None:
    own = of(study, "entity")
    for side, count in ((own.train, 30), (own.held, 12)):
        assert len(side.labels) == count * 3
        assert side.labels[:3] == ("person", "location", "location")
        assert side.words[:3] == ("good dog", "red", "house")
        assert spelled(study, side) == list(side.words)


def test_too_few_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.conllulex"
    path.write_text("1\tone\t_\tX\t_\t_\t0\troot\t_\t_\n\n")
    with pytest.raises(ValueError, match=r"x\.conllulex:1: expected more than 13 columns"):
        read_conllu(path, sense=13)


def test_without_the_other_sets_the_treebank_alone_is_probed(
    made: Made, trees: Path, tmp_path: Path
) -> None:
    found = weft.analyze([made("topic")], ["codelength"], out=tmp_path / "out", data=trees)
    rows = found.values["questions"]["codelength"]["rows"]
    assert {row["annotation"] for row in rows} == {"part of speech", "relation"}
    [section] = [own for own in found.document.sections if own.key == "question-codelength"]
    assert [note.split()[0] for note in section.notes] == ["Supersense", "Entity"]


def test_without_scikit_learn_linear_probes_say_so(
    made: Made, trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"pip install 'weft\[probes\]'"):
        weft.analyze([made("topic")], ["probes"], out=tmp_path / "out", data=trees)


def test_an_untrained_encoder_is_drawn_and_shares_nothing(made: Made) -> None:
    base = load_base(str(made.base.source), dtype=torch.float64)
    state = torch.random.get_rng_state()
    one, again, other = (untrained(base, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = base.trunk.state_dict()
    assert one.trunk.state_dict().keys() == weights.keys()
    for name, value in one.trunk.state_dict().items():
        assert value.dtype == weights[name].dtype
        assert torch.equal(value, again.trunk.state_dict()[name])
        if value.dim() == 2:
            assert not torch.equal(value, weights[name])
            assert not torch.equal(value, other.trunk.state_dict()[name])
    assert not one.trunk.training
    assert one.digest != base.digest
