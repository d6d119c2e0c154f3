"""Three small synthetic sets, made from a seed, in the formats that published sets use.

No answer is in a single word; each is a relation between words:

- `choices` (SWAG's CSV): someone swaps one thing for another; what can they do now? One ending fits
  the thing they have now, one the thing they gave away, two fit neither.
- `spans` (SQuAD v1.1 JSON): someone sells something to someone; a question asks for the thing,
  the place, the time, the price, or for one of the two among three people named.
- `entities` (CoNLL): words that are names of people and of things alike (rose, pearl, robin) are
  the giver, the receiver, what is given, or a bystander.

Train and validation share sentence patterns but no word that fills them, so remembering words does
not help. Text is lower-case: it reads the same to cased and uncased bases. Words and patterns
are in `generated.yaml`.
"""

import csv
import functools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from weft.atomic import make_folder, write_text, writing

SPLITS = ("train", "validation")

SIZES: Mapping[str, tuple[int, int]] = {
    "choices": (400, 300),
    "spans": (600, 300),
    "entities": (800, 300),
}
"""Rows in train and validation, by set."""

TASKS: Mapping[str, dict[str, Any]] = {
    "choices": {
        "kind": "multiple_choice",
        "description": "What someone can do after swapping one thing for another.",
        "format": "csv",
        "columns": {
            "id": "",
            "context": "sent1",
            "prefix": "sent2",
            "choices": "ending0,ending1,ending2,ending3",
        },
        "options": {"choices": 4},
    },
    "spans": {
        "kind": "span_extraction",
        "description": "Who sold what to whom, where, when and for how much.",
        "format": "squad",
        "options": {"max_answer_tokens": 5},
    },
    "entities": {
        "kind": "token_classification",
        "description": "Giver and receiver in a message, named with words that also name things.",
        "format": "conll",
        "labels": ["O", "B-giver", "I-giver", "B-receiver", "I-receiver"],
    },
}
"""What each set's YAML says, besides what all three share."""


def write_demo_data(
    folder: Path, seed: int = 0, sizes: Mapping[str, tuple[int, int]] = SIZES
) -> None:
    """Write the three sets and a task YAML for each into `folder`.

    `<folder>/<set>/` holds the files of one set, `<folder>/demo_<set>.yaml` says what it is. The
    same seed and sizes write the same bytes.

    Args:
        folder: Created if needed; files of the same names are overwritten.
        seed: Decides every row.
        sizes: Rows in train and validation, for each set of `SIZES`.
    """
    writers = {"choices": _write_choices, "spans": _write_spans, "entities": _write_entities}
    for name, write in writers.items():
        make_folder(folder / name)
        for split, size in zip(SPLITS, sizes[name], strict=True):
            # A stream for each file: the size of one changes no other.
            with writing(folder / name):
                write(folder / name, split, size, random.Random(f"{seed} {name} {split}"))
        spec = {
            "name": f"demo_{name}",
            "version": "1",
            "source": "made by weft.data.generated",
            "licence": "Apache-2.0",
            "max_length": 64,
            **TASKS[name],
        }
        text = yaml.safe_dump(spec, sort_keys=False)
        write_text(folder / f"demo_{name}.yaml", text)


@functools.cache
def _content() -> dict[str, Any]:
    return yaml.safe_load(
        (resources.files("weft.data") / "generated.yaml").read_text(encoding="utf-8")
    )


def _words(kind: str, split: str) -> list[str]:
    """The half of a list of `generated.yaml` that fills the sentences of `split`."""
    words = _content()[kind]
    words = words.split() if isinstance(words, str) else list(words)
    return words[SPLITS.index(split) :: len(SPLITS)]


def _dealt(items: Sequence[Any], size: int, rng: random.Random) -> Iterator[Any]:
    """`size` draws from `items`, each as often as any other up to one, in random order."""
    dealt = (list(items) * -(-size // len(items)))[:size]
    rng.shuffle(dealt)
    return iter(dealt)


def _write_choices(folder: Path, split: str, size: int, rng: random.Random) -> None:
    purposes = _content()["tools"]
    labels, patterns = _dealt(range(4), size, rng), _dealt(_content()["swaps"], size, rng)
    header = ["", "video-id", "fold-ind", "startphrase", "sent1", "sent2", "gold-source"]
    header += [f"ending{number}" for number in range(4)] + ["label"]
    with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for number in range(size):
            who = rng.choice(_words("people", split))
            old, new, *others = rng.sample(_words("tools", split), 4)
            context = next(patterns).format(who=who, old=old, new=new)
            start, label = f"now {who} can", next(labels)
            endings = [f"{purposes[tool]}." for tool in (old, *others)]
            rng.shuffle(endings)
            endings.insert(label, f"{purposes[new]}.")
            told = [f"demo-{split}-{number}", number, f"{context} {start}", context, start, "gold"]
            writer.writerow([number, *told, *endings, label])


def _write_spans(folder: Path, split: str, size: int, rng: random.Random) -> None:
    questions = _content()["questions"]
    asked = _dealt(list(questions), size, rng)
    paragraphs = []

    def one(kind: str) -> str:
        return rng.choice(_words(kind, split))

    for number in range(size):
        seller, buyer, other = rng.sample(_words("people", split), 3)
        fact = {"seller": seller, "buyer": buyer, "other": other, "thing": one("tools")}
        fact |= {"place": f"{one('qualities')} {one('places')}", "time": one("times")}
        fact |= {"price": f"{one('numbers')} coins"}
        told = [rng.choice(_content()[kind]).format_map(fact) for kind in ("sales", "asides")]
        context = " ".join(rng.sample(told, 2))
        role = next(asked)
        question = rng.choice(questions[role]).format_map(fact)
        answers = [{"answer_start": _start(context, fact[role]), "text": fact[role]}]
        entry = {"id": f"demo-{split}-{number}", "question": question, "answers": answers}
        paragraphs.append({"context": context, "qas": [entry]})
    document = {"version": "1.1", "data": [{"title": f"demo {split}", "paragraphs": paragraphs}]}
    (folder / f"{split}.json").write_text(json.dumps(document, indent=1), encoding="utf-8")


def _start(context: str, answer: str) -> int:
    """Where `answer` stands as whole words: "pen" is also inside "open"."""
    parted = context.replace(".", " ").replace(",", " ")
    return f" {parted}".index(f" {answer} ")


def _write_entities(folder: Path, split: str, size: int, rng: random.Random) -> None:
    patterns = _dealt(_content()["messages"], size, rng)
    roles = ("giver", "receiver", "thing", "other")
    lines = []
    for _ in range(size):
        fillers = dict(zip(roles, rng.sample(_words("names", split), 4), strict=True))
        for slot in next(patterns).split():
            role = slot.strip("{}")
            words = [fillers.get(role, slot)]
            tags = ["O"]
            if role in ("giver", "receiver"):
                if rng.random() < 0.25:
                    words.insert(0, rng.choice(_words("titles", split)))
                tags = [f"B-{role}", f"I-{role}"][: len(words)]
            lines += [f"{word}\t{tag}" for word, tag in zip(words, tags, strict=True)]
        lines.append("")
    (folder / f"{split}.conll").write_text("\n".join(lines) + "\n", encoding="utf-8")
