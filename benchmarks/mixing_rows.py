"""Rows that no expert was trained for: of two tasks at once, and with typos. For `mixing.py`.

Every function makes new examples of checked ones; a row keeps its id, and what is drawn depends on the id alone.
"""

import random
from collections.abc import Sequence

from weft.tasks.contract import Example, Prediction

TYPOS = 0.2
"""Share of the longer words that get one."""
LONG = 4
"""Letters of a word that can be mistyped and still be read."""
QUESTIONS = {
    "person": "Which person is named?",
    "location": "Which place is named?",
    "corporation": "Which company is named?",
    "group": "Which group is named?",
    "product": "Which product is named?",
    "creative-work": "Which work is named?",
}
"""By entity type of WNUT17."""
TWEETS = 3
"""Sentences before a paragraph."""
BEFORE = 40
"""Words of a paragraph before a sentence."""


def mistyped(word: str, drawn: random.Random) -> str:
    """The word with two neighbours swapped, one letter left out or one doubled."""
    at = drawn.randrange(1, len(word) - 1)
    return drawn.choice(
        (
            word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
        )
    )


def typos_in(words: Sequence[str], drawn: random.Random) -> list[str]:
    """Some of the longer words mistyped."""
    return [
        mistyped(word, drawn)
        if len(word) >= LONG and word.isalpha() and drawn.random() < TYPOS
        else word
        for word in words
    ]


def with_typos(task: str, row: Example) -> Example:
    """A row with typos where they leave the right answer what it is: not in a passage that answers are cut from."""
    drawn = random.Random(row["id"])

    def typed(text: str) -> str:
        return " ".join(typos_in(text.split(" "), drawn))

    if task == "wnut17":
        return {**row, "tokens": typos_in(row["tokens"], drawn)}
    if task == "squad":
        return {**row, "question": typed(row["question"])}
    return {
        **row,
        "context": typed(row["context"]),
        "choices": [typed(one) for one in row["choices"]],
    }


def questions_about(sentences: Sequence[Example]) -> list[Example]:
    """A question for each sentence and type of which exactly one entity is in it; the entity is the answer."""
    found = []
    for row in sentences:
        by_type: dict[str, list[str]] = {}
        for name, words in entities(row):
            by_type.setdefault(name, []).append(" ".join(words))
        for name, named in by_type.items():
            if len(named) == 1 and name in QUESTIONS:
                context = " ".join(row["tokens"])
                start = context.index(named[0])
                found.append(
                    {
                        "id": f"{row['id']}-{name}",
                        "question": QUESTIONS[name],
                        "context": context,
                        "answers": [{"text": named[0], "start": start}],
                    }
                )
    return found


def entities(row: Example) -> list[tuple[str, list[str]]]:
    """Type and words of every entity of a sentence."""
    found: list[tuple[str, list[str]]] = []
    for word, tag in zip(row["tokens"], row["tags"], strict=True):
        if tag.startswith("B-"):
            found.append((tag[2:], [word]))
        elif tag.startswith("I-") and found:
            found[-1][1].append(word)
    return found


def behind_sentences(row: Example, sentences: Sequence[Example]) -> Example:
    """A question whose paragraph follows sentences of the tagging set."""
    drawn = random.Random(row["id"])
    said = " ".join(" ".join(one["tokens"]) for one in drawn.sample(list(sentences), TWEETS)) + " "
    moved = [{**one, "start": one["start"] + len(said)} for one in row["answers"]]
    return {**row, "context": said + row["context"], "answers": moved}


def behind_paragraph(row: Example, questions: Sequence[Example]) -> Example:
    """A sentence that follows the first words of a paragraph, whose tags nobody knows: `own_tags` leaves them out."""
    words = random.Random(row["id"]).choice(list(questions))["context"].split()[:BEFORE]
    return {
        **row,
        "tokens": [*words, *row["tokens"]],
        "tags": ["O"] * len(words) + list(row["tags"]),
    }


def own_tags(answer: Prediction, row: Example) -> Prediction:
    """Of an answer to `behind_paragraph`, what it says of the sentence itself."""
    return {**answer, "tags": answer["tags"][-len(row["tags"]) :]}
