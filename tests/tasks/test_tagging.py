"""Every tagging scheme is recognised, and means in IOB2 what seqeval reads in it."""

import warnings

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from seqeval import scheme as published
from seqeval.metrics.sequence_labeling import get_entities

from weft.tasks.metrics import Entity, entities_of
from weft.tasks.tagging import SCHEMES, Scheme, classes_of, recognise, split, to_iob2

ORACLES = {
    "iob1": published.IOB1,
    "iob2": published.IOB2,
    "bioes": published.IOBES,
    "bilou": published.BILOU,
}

# A sentence: entities of some type and length, and words between them.
pieces = st.lists(st.tuples(st.sampled_from([None, "PER", "B-LOC", "x-y"]), st.integers(1, 3)))


def written(sentence: list[tuple[str | None, int]], scheme: Scheme) -> list[str]:
    """A sentence's tags as the scheme's definition has them."""
    tags: list[str] = []
    before = None
    for kind, size in sentence:
        letters = {
            "iob2": "B" + "I" * (size - 1),
            "iob1": ("B" if before == kind else "I") + "I" * (size - 1),
            "io": "I" * size,
            "bioes": "S" if size == 1 else "B" + "I" * (size - 2) + "E",
            "bilou": "U" if size == 1 else "B" + "I" * (size - 2) + "L",
        }[scheme]
        tags += ["O" if kind is None else f"{letter}-{kind}" for letter in letters]
        before = kind
    return tags


def entities(sentence: list[tuple[str | None, int]]) -> list[Entity]:
    found, at = [], 0
    for kind, size in sentence:
        if kind is not None:
            found.append((kind, at, at + size - 1))
        at += size
    return found


def strict(tags: list[str], scheme: Scheme) -> list[Entity]:
    """What seqeval reads in tags of a scheme."""
    found = published.Entities([tags], ORACLES[scheme]).entities[0]
    return [(entity.tag, entity.start, entity.end - 1) for entity in found]


@pytest.mark.parametrize("scheme", ORACLES)
@given(pieces)
def test_iob2_holds_the_entities_that_seqeval_reads_in_the_scheme(
    scheme: Scheme, sentence: list[tuple[str | None, int]]
) -> None:
    tags = written(sentence, scheme)
    if tags:
        assert strict(tags, scheme) == entities(sentence)
        converted = to_iob2(tags, scheme)
        assert converted == written(sentence, "iob2")
        assert strict(converted, "iob2") == entities(sentence)


@given(pieces)
def test_io_runs_of_one_type_are_one_entity(sentence: list[tuple[str | None, int]]) -> None:
    tags = written(sentence, "io")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert entities_of(to_iob2(tags, "io")) == get_entities(tags)


@given(st.lists(st.sampled_from(["O", *(f"{a}-{b}" for a in "BIES" for b in "xy")]), min_size=1))
def test_broken_bioes_is_read_as_seqevals_default_reads_it(tags: list[str]) -> None:
    assert entities_of(to_iob2(tags, "bioes")) == get_entities(tags)


@pytest.mark.parametrize("scheme", SCHEMES)
@given(st.lists(pieces, min_size=1))
def test_a_scheme_is_recognised_by_its_tags(
    scheme: Scheme, sentences: list[list[tuple[str | None, int]]]
) -> None:
    rows = [written(sentence, scheme) for sentence in sentences]
    assume(any(tag != "O" for row in rows for tag in row))
    found = recognise(rows)
    # Whatever it is called, every row means the same in it.
    assert [to_iob2(row, found) for row in rows] == [to_iob2(row, scheme) for row in rows]
    if scheme != "iob1":
        assert found == scheme


@pytest.mark.parametrize(
    ("rows", "scheme"),
    [
        ([["O", "O"]], "iob2"),
        ([["I-x", "B-x", "O", "I-y"]], "iob1"),
        ([["B-x", "O", "I-y"]], "iob2"),
        ([["B-x", "M-x", "E-x", "O"], ["S-y"]], "bioes"),
        ([["B-x", "M-x", "E-x", "O"], ["W-y"]], "bioes"),
        ([["O", "U-x"]], "bilou"),
    ],
)
def test_what_tags_alone_cannot_tell_is_iob2(rows: list[list[str]], scheme: Scheme) -> None:
    assert recognise(rows) == scheme


def test_bmes_and_bmewo_are_bioes_by_other_letters() -> None:
    tags = ["B-x", "M-x", "E-x", "S-x", "O", "W-y", "B-y", "E-y"]
    assert to_iob2(tags, "bioes") == ["B-x", "I-x", "I-x", "B-x", "O", "B-y", "B-y", "I-y"]


def test_letters_of_two_schemes_are_refused() -> None:
    with pytest.raises(ValueError, match="no one scheme has them all; say which with `scheme:`"):
        recognise([["S-x", "U-x"]])


def test_bare_types_are_read_where_the_scheme_is_io() -> None:
    assert to_iob2(["PER", "PER", "O", "art-music"], "io") == [
        "B-PER",
        "I-PER",
        "O",
        "B-art-music",
    ]
    with pytest.raises(ValueError, match=r"'PER' is no tag: expected O, .* `scheme: io`"):
        split("PER")
    with pytest.raises(ValueError, match="'B-PER' is no tag of scheme io"):
        split("B-PER", "io")
    with pytest.raises(
        ValueError, match="'E-x' is no tag of scheme bilou: expected O, or B-<type> or I"
    ):
        to_iob2(["E-x"], "bilou")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["O", "B-x", "I-x"], ["O", "B-x", "I-x"]),
        (["B-y", "O", "B-x"], ["B-y", "O", "B-x"]),
        (["B-x", "E-x", "I-x", "O", "S-y"], ["O", "B-x", "I-x", "B-y", "I-y"]),
        (["O", "I-x", "I-y"], ["O", "B-x", "I-x", "B-y", "I-y"]),
    ],
)
def test_named_labels_become_iob2_classes(labels: list[str], classes: list[str]) -> None:
    assert classes_of(labels, None) == classes
