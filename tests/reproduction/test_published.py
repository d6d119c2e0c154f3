"""The published figures are those of the study's text, each at its own address."""

import re
from collections.abc import Iterator
from decimal import Decimal

import pytest
from pydantic import ValidationError

from weft.reproduction.published import Address, published, slower_with_lora, uneven_times

SETTINGS = "learning rate 5e-5, batch 16, rank 8; epochs SQuAD 3, SWAG 5, WNUT17 10"
TIMES = {
    2: """DistilBERT FT 13046.00 (4348.67), LoRA 10493.03 (3497.67), T4; BERT-base FT 25524.57 (8508.19),
    LoRA 19854.15 (6618.05), T4; BERT-large FT 36168.27 (12056.09), LoRA 28118.33 (9372.78), L4.""",
    3: """DistilBERT FT 1547.32 (309.464), LoRA 1004.11 (200.82), L4; BERT-base FT 2662.15 (532.43),
    LoRA 3107.52 (621.50), L4; BERT-large FT 8699.09 (1739.82), LoRA 8522.51 (1704.50), L4.""",
    4: """DistilBERT FT 79.94 (6; 13.32), LoRA 84.744 (10; 8.47), L4; BERT-base FT 120.19 (6; 20.03),
    LoRA 143.80 (10; 14.38), L4; BERT-large FT 439.05 (7; 62.72), LoRA 244.80 (10; 24.48), L4.""",
}
SCORES = """
DistilBERT FT 67M | 69.6 | 77.5 / 85.7 | 94.7 / 49.42; LoRA 0.15M | 64.3 | 58.5 / 69.8 | 93.6 / 29.8;
BERT-base FT 110M | 77.6 | 80.5 / 88.2 | 94.8 / 44.5; LoRA 0.3M | 75.0 | 63.6 / 73.9 | 93.6 / 29.5;
BERT-large FT 340M | 80.2 | 83.1 / 90.5 | 94.9 / 48.6; LoRA 0.8M | 82.9 | 74.1 / 83.8 | 93.4 / 27.68.
"""
MIXTURES = "BERT-base (X-LoRA) 164M | 53M; BERT-large (X-LoRA) 392M | 57M"
BASES = {"DistilBERT": "distilbert", "BERT-base": "bert-base", "BERT-large": "bert-large"}
SETS = {2: "squad", 3: "swag", 4: "wnut17"}
NUMBER = r"(\d[\d.]*)"


def said() -> Iterator[tuple[Address, str]]:
    """Every figure in the texts above."""
    found = re.findall(r"(SQuAD|SWAG|WNUT17) (\d+)", SETTINGS)
    rate, batch, rank = re.findall(r"rate (\S+), batch (\d+), rank (\d+)", SETTINGS)[0]
    for task, epochs in found:
        values = {"learning_rate": rate, "batch_size": batch, "epochs": epochs, "rank": rank}
        yield from ((Address(1, None, None, task.lower(), key), values[key]) for key in values)
    for number, text in TIMES.items():
        usual = {2: "3", 3: "5"}.get(number, "")
        inside = rf"{NUMBER} \((?:(\d+); )?{NUMBER}\)"
        for row in re.findall(rf"([\w-]+) FT {inside},\s+LoRA {inside}", text):
            for method, (whole, epochs, each) in {"full": row[1:4], "lora": row[4:]}.items():
                values = {"epochs": epochs or usual, "seconds": whole, "seconds_per_epoch": each}
                for metric, value in values.items():
                    yield Address(number, BASES[row[0]], method, SETS[number], metric), value
    numbers = rf"{NUMBER}M \| {NUMBER} \| {NUMBER} / {NUMBER} \| {NUMBER} / {NUMBER}"
    columns = (
        (None, "trainable_parameters"),
        ("swag", "accuracy"),
        ("squad", "exact_match"),
        ("squad", "f1"),
        ("wnut17", "accuracy"),
        ("wnut17", "f1"),
    )
    for base, *values in re.findall(rf"(\S+) FT {numbers}; LoRA {numbers}", SCORES):
        for method, own in {"full": values[:6], "lora": values[6:]}.items():
            for (task, metric), value in zip(columns, own, strict=True):
                yield Address(5, BASES[base], method, task, metric), value.rstrip(".")
    for base, whole, trained in re.findall(rf"(\S+) \(X-LoRA\) {NUMBER}M \| {NUMBER}M", MIXTURES):
        yield Address(6, BASES[base], "xlora", None, "parameters"), whole
        yield Address(6, BASES[base], "xlora", None, "trainable_parameters"), trained


def test_every_figure_is_the_text_s_and_there_is_no_other() -> None:
    expected = list(said())
    assert len(expected) == 12 + 3 * 18 + 36 + 4
    figures = list(published().figures())
    assert {figure.address: figure.printed for figure in figures} == dict(expected)
    assert len(figures) == len(expected)


def test_each_time_names_its_machine_and_other_figures_none() -> None:
    machines = {
        (number, BASES[base]): machine
        for number, text in TIMES.items()
        for base, machine in re.findall(r"([\w-]+) FT [^;]*?\), (\w\d)", text.replace("; ", ", "))
    }
    assert len(machines) == 9
    for figure in published().figures():
        key = (figure.address.table, figure.address.base)
        assert figure.machine == machines.get(key)  # type: ignore[arg-type] - table 1 has no base


def test_people_and_claims_are_there() -> None:
    study = published()
    assert study.title.startswith("Low-Rank Transformations of the Syntactic-Semantic Space in")
    assert study.authors == ("Yves Emmanuel", "Silvio Melo")
    assert study.human.scores == {"squad": {"exact_match": "80.3", "f1": "90.5"}}
    bounds = {name: (claim.bound, claim.share) for name, claim in study.claims.items()}
    assert bounds == {"kept": (0.9, 0.01), "faster": (1.0, None), "cheap": (30.0, None)}
    assert study.settings.early_stopping == {"wnut17": 5}
    assert study.settings.early_stopping_on == "loss"
    assert study.settings.targets == ["query", "value"]


def test_seconds_are_epochs_times_seconds_per_epoch_but_for_one() -> None:
    study = published()
    at = Address(2, "distilbert", "lora", "squad", "seconds_per_epoch")
    assert list(uneven_times(study)) == [at]
    assert "3497.68" in uneven_times(study)[at]
    for figure in study.figures():
        if figure.address.metric == "seconds":
            each = study.figure(figure.address._replace(metric="seconds_per_epoch")).value
            epochs = study.figure(figure.address._replace(metric="epochs")).value
            # A last digit's half for each epoch, and one more for the figure that was cut instead of rounded.
            assert abs(each * epochs - figure.value) <= Decimal("0.005") * (epochs + 1)


def test_where_lora_was_slower_is_known() -> None:
    assert list(slower_with_lora(published())) == [
        Address(3, "bert-base", "lora", "swag", "seconds"),
        Address(3, "bert-base", "lora", "swag", "seconds_per_epoch"),
        Address(4, "distilbert", "lora", "wnut17", "seconds"),
        Address(4, "bert-base", "lora", "wnut17", "seconds"),
    ]


def test_an_address_without_a_figure_names_the_nearest_and_nothing_can_be_changed() -> None:
    study = published()
    with pytest.raises(KeyError, match="Did you mean '5/bert-base/lora/squad/f1'"):
        study.figure(Address(5, "bert-base", "lora", "squad", "f2"))
    with pytest.raises(ValidationError):
        study.title = "another"  # type: ignore[misc]
