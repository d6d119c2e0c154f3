"""The demo's sets: reproducible, in the published formats, and not to be guessed."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.config import validate
from weft.data.generated import SIZES, SPLITS, write_demo_data
from weft.tasks.contract import TaskSpec

# The published column names of SWAG's train.csv and val.csv.
SWAG_COLUMNS = [
    "",
    *("video-id", "fold-ind", "startphrase", "sent1", "sent2", "gold-source"),
    *("ending0", "ending1", "ending2", "ending3", "label"),
]
CONTENT = yaml.safe_load(
    (resources.files("weft.data") / "generated.yaml").read_text(encoding="utf-8")
)
SETS = tuple(SIZES)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_data(folder)
    return folder


def choice_rows(demo: Path, split: str) -> list[dict[str, str]]:
    with (demo / "choices" / f"{split}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def span_rows(demo: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    document = json.loads((demo / "spans" / f"{split}.json").read_text("utf-8"))
    assert document["version"] == "1.1"
    for article in document["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield paragraph["context"], question


def sentences(demo: Path, split: str) -> list[list[tuple[str, str]]]:
    blocks = (demo / "entities" / f"{split}.conll").read_text("utf-8").strip().split("\n\n")
    return [[(t, tag) for t, tag in map(str.split, block.split("\n"))] for block in blocks]


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_seed_says_every_byte(demo: Path, tmp_path: Path) -> None:
    write_demo_data(tmp_path / "same")
    write_demo_data(tmp_path / "other", seed=1)
    first, same, other = (bytes_of(path) for path in (demo, tmp_path / "same", tmp_path / "other"))
    assert same == first
    assert {name for name in first if other[name] == first[name]} == {
        f"demo_{name}.yaml" for name in SETS
    }


def test_the_size_of_train_leaves_validation_alone(demo: Path, tmp_path: Path) -> None:
    write_demo_data(tmp_path, sizes={name: (5, SIZES[name][1]) for name in SETS})
    small, full = bytes_of(tmp_path), bytes_of(demo)
    kept = {name for name in full if small[name] == full[name]}
    assert {name for name in full if "validation" in name} <= kept
    assert not {name for name in full if "train" in name} & kept


def test_sizes_are_those_asked_for(demo: Path) -> None:
    for place, split in enumerate(SPLITS):
        found = [choice_rows(demo, split), list(span_rows(demo, split)), sentences(demo, split)]
        assert [len(rows) for rows in found] == [SIZES[name][place] for name in SETS]


def test_choices_are_in_the_columns_of_swag(demo: Path) -> None:
    for split in SPLITS:
        lines = (demo / "choices" / f"{split}.csv").read_text("utf-8").splitlines()
        assert next(csv.reader(lines)) == SWAG_COLUMNS
        for row in choice_rows(demo, split):
            assert row["startphrase"] == f"{row['sent1']} {row['sent2']}"
            assert len({row[f"ending{number}"] for number in range(4)}) == 4


def test_the_right_choice_fits_the_thing_they_have_now(demo: Path) -> None:
    patterns = [re.escape(text) for text in CONTENT["swaps"]]
    for slot, group in (
        ("who", r"(?P<who>\w+)"),
        ("old", r"(?P<old>\w+)"),
        ("new", r"(?P<new>\w+)"),
    ):
        patterns = [text.replace(rf"\{{{slot}\}}", group) for text in patterns]
    for split in SPLITS:
        for row in choice_rows(demo, split):
            found = [m for text in patterns if (m := re.fullmatch(text, row["sent1"]))]
            assert len(found) == 1
            endings = [row[f"ending{number}"] for number in range(4)]
            fitting = f"{CONTENT['tools'][found[0]['new']]}."
            assert endings.index(fitting) == int(row["label"])
            assert f"{CONTENT['tools'][found[0]['old']]}." in endings


def test_every_choice_is_right_equally_often(demo: Path) -> None:
    for split, size in zip(SPLITS, SIZES["choices"], strict=True):
        labels = Counter(row["label"] for row in choice_rows(demo, split))
        assert labels == dict.fromkeys("0123", size // 4)


def test_answers_stand_at_their_offsets_as_whole_words_once(demo: Path) -> None:
    for split in SPLITS:
        for context, question in span_rows(demo, split):
            (answer,) = question["answers"]
            start, text = answer["answer_start"], answer["text"]
            found = [match.start() for match in re.finditer(rf"\b{text}\b", context)]
            assert found == [start]


def test_every_part_of_a_sale_is_asked_for_equally_often(demo: Path) -> None:
    kinds = {
        "people": set(CONTENT["people"].split()),
        "thing": set(CONTENT["tools"]),
        "time": set(CONTENT["times"].split()),
        "price": {f"{number} coins" for number in CONTENT["numbers"].split()},
    }
    for split, size in zip(SPLITS, SIZES["spans"], strict=True):
        answers = [question["answers"][0]["text"] for _, question in span_rows(demo, split)]
        counts = {kind: sum(a in words for a in answers) for kind, words in kinds.items()}
        share = size // 6
        assert counts == {"people": 2 * share, "thing": share, "time": share, "price": share}


def test_who_sold_and_who_bought_differ_by_their_place_in_the_sale(demo: Path) -> None:
    slots = {"seller": r"(?P<seller>\w+)", "buyer": r"(?P<buyer>\w+)", "place": r"\w+ \w+"}
    slots |= {"thing": r"\w+", "time": r"\w+", "price": r"\w+ coins"}
    sales = [re.escape(text).replace(r"\{", "{").replace(r"\}", "}") for text in CONTENT["sales"]]
    patterns = [text.format_map(slots) for text in sales]
    roles = {"sold": "seller", "seller": "seller", "bought": "buyer", "buyer": "buyer"}
    for split in SPLITS:
        for context, question in span_rows(demo, split):
            found = [match for text in patterns if (match := re.search(text, context))]
            assert len(found) == 1
            first, *words = re.findall(r"\w+", question["question"])
            if first == "who":
                (role,) = {roles[word] for word in words if word in roles}
                assert question["answers"][0]["text"] == found[0][role]


def test_the_same_words_are_giver_receiver_and_neither(demo: Path) -> None:
    for split in SPLITS:
        seen: dict[str, set[str]] = {}
        for sentence in sentences(demo, split):
            tags = [tag for _, tag in sentence]
            assert (tags.count("B-giver"), tags.count("B-receiver")) == (1, 1)
            for before, tag in zip(["O", *tags], tags, strict=False):
                assert tag[0] != "I" or before == "B" + tag[1:]
            for token, tag in sentence:
                seen.setdefault(token, set()).add(tag[2:] or "O")
        named = [roles for word, roles in seen.items() if word in CONTENT["names"].split()]
        assert named == [{"giver", "receiver", "O"}] * (len(CONTENT["names"].split()) // 2)


def test_splits_share_no_filler(demo: Path) -> None:
    for name, kinds in (
        ("choices", ("people", "tools")),
        ("spans", ("people", "tools", "places", "qualities", "times", "numbers")),
        ("entities", ("names", "titles")),
    ):
        words = [text_of(demo, name, split) for split in SPLITS]
        for kind in kinds:
            listed = CONTENT[kind]
            fillers = set(listed.split() if isinstance(listed, str) else listed)
            train, validation = (found & fillers for found in words)
            assert train & validation == set(), kind
            assert train | validation == fillers, kind


def text_of(demo: Path, name: str, split: str) -> set[str]:
    """Words of one split where its fillers stand; a purpose may happen to name another tool."""
    if name == "choices":
        texts = [row["sent1"] for row in choice_rows(demo, split)]
    elif name == "spans":
        texts = [context for context, _ in span_rows(demo, split)]
    else:
        texts = [token for sentence in sentences(demo, split) for token, _ in sentence]
    return {word for text in texts for word in re.findall(r"\w+", text)}


def test_task_files_are_valid_and_name_what_is_there(demo: Path) -> None:
    for name in SETS:
        values = yaml.safe_load((demo / f"demo_{name}.yaml").read_text("utf-8"))
        spec = validate(TaskSpec, values, name)
        assert spec.name == f"demo_{name}"
        tags = {tag for split in SPLITS for row in sentences(demo, split) for _, tag in row}
        assert spec.labels is None or set(spec.labels) == tags
