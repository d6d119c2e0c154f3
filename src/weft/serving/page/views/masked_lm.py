"""Words for masks, as bars."""

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


class MaskedLm(View):
    """The text with its masks numbered, and the likeliest words for each."""

    fields = (
        Field("text", "Text", "with the base's mask, mostly [MASK], in place of words", lines=4),
    )

    def shown(self, given: Given, prediction: Prediction) -> Shown:
        masks = prediction["masks"]
        best = [mask["tokens"][0]["token"] for mask in masks]
        places = (
            (mask["start"], mask["end"], f"{number}: {word}")
            for number, (mask, word) in enumerate(zip(masks, best, strict=True), 1)
        )
        bars = tuple(
            Bars(
                f"Mask {number}",
                tuple(
                    Bar(one["token"], one["score"], at == 0)
                    for at, one in enumerate(mask["tokens"])
                ),
            )
            for number, mask in enumerate(masks, 1)
        )
        text = Passage("The text and its masks", marked(given["text"], places))
        return Shown(", ".join(best) or "no mask in the text", passages=(text,), bars=bars)
