"""Tiny tasks of every kind, as files a user could have written."""

import csv
import json
from pathlib import Path
from typing import Any

WORDS = [
    "good",
    "bad",
    "film",
    "book",
    "red",
    "blue",
    "big",
    "small",
    "cat",
    "dog",
    "house",
    "city",
]


def _rows(count: int, start: int) -> list[list[str]]:
    """`count` different word lists of different lengths."""
    return [
        [
            WORDS[(start + 5 * row + 7 * at + row * at) % len(WORDS)]
            for at in range(3 + (row + start) % 6)
        ]
        for row in range(count)
    ]


def _write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_tasks(folder: Path) -> Path:
    """Write `topic` (classes), `tags` (tokens), `endings` (choices), `where` (spans), two of text, two of vectors."""
    kinds = {
        "topic": "kind: sequence_classification\nformat: csv\nlabels: [animal, thing]\n",
        "tags": "kind: token_classification\nformat: conll\nlabels: [O, B-animal, I-animal]\n",
        "endings": "kind: multiple_choice\nformat: csv\ncolumns: {choices: 'a,b,c'}\noptions: {choices: 3}\n",
        "fill": "kind: masked_lm\nformat: text\n",
        "go_on": "kind: causal_lm\nformat: text\nstride: 1\n",
        "alike": "kind: embedding\nformat: csv\n",
        "beside": "kind: embedding\nformat: csv\n",
        "where": "kind: span_extraction\nformat: squad\nstride: 8\n",
    }
    for name, text in kinds.items():
        (folder / name).mkdir(parents=True)
        limit = 24 if name == "where" else 48
        (folder / name / f"{name}.yaml").write_text(f"{text}max_length: {limit}\n")
    for split, count, start in (("train", 22, 0), ("validation", 10, 100)):
        rows = _rows(count, start)
        _write_csv(
            folder / "topic" / f"{split}.csv",
            ["text", "label"],
            [[" ".join(row), "animal" if {"cat", "dog"} & set(row) else "thing"] for row in rows],
        )
        sentences = [
            "".join(f"{word}\t{'B-animal' if word in ('cat', 'dog') else 'O'}\n" for word in row)
            for row in rows
        ]
        (folder / "tags" / f"{split}.conll").write_text("\n".join(sentences))
        _write_csv(
            folder / "endings" / f"{split}.csv",
            ["context", "prefix", "a", "b", "c", "label"],
            [
                [" ".join(row), "the", row[0], "river", "berlin", at % 3]
                for at, row in enumerate(rows)
            ],
        )
        turned = [" ".join(row[1:] + row[:1]) for row in rows]
        others = turned[1:] + turned[:1]
        _write_csv(
            folder / "alike" / f"{split}.csv",
            ["text_a", "text_b", "score"],
            [
                [" ".join(row), *((same, 1) if at % 2 else (other, at / count))]
                for at, (row, same, other) in enumerate(zip(rows, turned, others, strict=True))
            ],
        )
        _write_csv(
            folder / "beside" / f"{split}.csv",
            ["anchor", "positive", "negative"],
            [
                [" ".join(row), same, " ".join(reversed(other))]
                for row, same, other in zip(rows, turned, rows[1:] + rows[:1], strict=True)
            ],
        )
        for name in ("fill", "go_on"):
            (folder / name / f"{split}.txt").write_text("\n\n".join(" ".join(row) for row in rows))
        paragraphs = [
            {
                "context": " ".join(row * 4),
                "qas": [
                    {
                        "id": f"{split}-{at}",
                        "question": f"which one is {row[0]}",
                        "answers": [
                            {"text": row[1], "answer_start": " ".join(row * 4).index(row[1])}
                        ],
                    }
                ],
            }
            for at, row in enumerate(rows)
        ]
        published = {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}
        (folder / "where" / f"{split}.json").write_text(json.dumps(published))
    return folder
