"""Entities marked in their text."""

from weft.serving.page.views.contract import (
    Bar,
    Bars,
    Field,
    Given,
    Passage,
    Shown,
    View,
    marked,
)
from weft.tasks.contract import Prediction


class TokenClassification(View):
    """The text with its entities, and how sure each is."""

    fields = (Field("text", "Text", lines=6),)

    def shown(self, given: Given, prediction: Prediction) -> Shown:
        found = prediction["entities"]
        text = marked(given["text"], ((own["start"], own["end"], own["type"]) for own in found))
        count = (
            "no entity" if not found else f"{len(found)} entit{'y' if len(found) == 1 else 'ies'}"
        )
        named = ", ".join(f"{own['text']} ({own['type']})" for own in found)
        bars = tuple(Bar(f"{own['text']} ({own['type']})", own["score"], True) for own in found)
        return Shown(
            f"{count}: {named}" if found else count,
            passages=(Passage("Entities in the text", text),),
            bars=(Bars("How sure", bars),) if bars else (),
        )
