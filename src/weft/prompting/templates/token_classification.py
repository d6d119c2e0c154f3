"""Token classification: the text; its entities are written as `type: words`, and found in the text again.

A prompt that lists entities rather than tags them, as generative extraction does (Wang et al. 2023, GPT-NER, marks
them in the text instead, arXiv:2304.10428): fewer tokens to write, and an entity that is not in the text is dropped.
"""

from collections.abc import Sequence

import regex

from weft.prompting.templates.contract import Writing
from weft.tasks.contract import Example, Prediction
from weft.tasks.kinds.token_classification import laid_out
from weft.tasks.metrics import entities_of, gold
from weft.tasks.text import trimmed

NONE = "none"
BETWEEN = "; "
_MOST_LEFT = 20
"""Written things without a place in the text that a prediction lists."""


class TokenClassification(Writing):
    """`person: Ann Lee; location: Paris`, or `none`.

    Words that are written twice mean two places. Case and white space are looked past where the text does not hold the
    words as written; an entity begins and ends where tokens do. A prediction lists under `unplaced` what was written
    and is no entity of the text. Written words carry no probability: every `score` is 1.
    """

    max_new_tokens = 48

    @property
    def types(self) -> list[str]:
        return sorted({label[2:] for label in self.task.labels if label != "O"})

    @property
    def instruction(self) -> str:
        return (
            "List the named entities of each text as type: words, parted by semicolons. "
            f"Types: {', '.join(self.types)}. "
            f'If there are none, write "{NONE}".'
        )

    def question(self, example: Example) -> str:
        return f"Text: {laid_out(example)[0].strip()}\nEntities:"

    def answer(self, example: Example) -> str:
        text, offsets = laid_out(example)
        found = []
        for kind, first, last in entities_of(gold(example, "tags")):
            start, end = trimmed(text, offsets[first][0], offsets[last][1])
            found.append(f"{kind}: {text[start:end]}")
        return BETWEEN.join(found) or NONE

    def about(self, example: Example) -> str:
        return laid_out(example)[0]

    def read(self, example: Example, text: str) -> Prediction:
        tokens = example["tokens"]
        tags, unplaced = ["O"] * len(tokens), []
        for part in filter(None, (one.strip() for one in regex.split(r"[;\n]", text))):
            kind, words = self._said(part)
            place = None if kind is None else _place(tokens, tags, words)
            if place is None:
                if part.rstrip(".").lower() != NONE:
                    unplaced.append(part)
                continue
            first, last = place
            tags[first : last + 1] = [f"B-{kind}", *[f"I-{kind}"] * (last - first)]
        whole, offsets = laid_out(example)
        entities = []
        for kind, first, last in entities_of(tags):
            start, end = trimmed(whole, offsets[first][0], offsets[last][1])
            entities.append(
                {"type": kind, "text": whole[start:end], "score": 1.0, "start": start, "end": end}
            )
        return {
            "id": example["id"],
            "tags": tags,
            "entities": entities,
            "unplaced": unplaced[:_MOST_LEFT],
        }

    def _said(self, part: str) -> tuple[str | None, str]:
        """The type and the words of `type: words`; no type where it names none."""
        kind, colon, words = part.partition(":")
        known = {name.lower(): name for name in self.types}
        return known.get(kind.strip().lower()) if colon else None, words.strip()


def _place(tokens: Sequence[str], tags: Sequence[str], words: str) -> tuple[int, int] | None:
    """First and last token of the first place that words have in the text and that is free yet."""
    for fold in (False, True):
        squeezed = ["".join(token.split()) for token in tokens]
        wanted = "".join(words.split())
        if fold:
            squeezed, wanted = [token.lower() for token in squeezed], wanted.lower()
        for first in range(len(squeezed)):
            said = ""
            for last in range(first, len(squeezed)):
                said += squeezed[last]
                if said == wanted and said and all(tag == "O" for tag in tags[first : last + 1]):
                    # Tokens of white space alone belong to no entity.
                    if squeezed[first] and squeezed[last]:
                        return first, last
                    break
                if not wanted.startswith(said):
                    break
    return None
