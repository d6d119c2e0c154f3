"""A text and what an expert wrote behind it."""

from typing import ClassVar

from weft.serving.page.views.contract import Field, Given, Passage, Shown, View, marked
from weft.tasks.contract import Prediction


class CausalLm(View):
    """The prompt, and its continuation marked."""

    fields = (Field("text", "Text to go on from", lines=4),)
    writes: ClassVar[bool] = True

    def shown(self, given: Given, prediction: Prediction) -> Shown:
        prompt, text = given["text"], prediction["continuation"]
        whole = marked(prompt + text, ((len(prompt), len(prompt + text), "written"),))
        count = prediction["tokens"]
        return Shown(
            f"{count} token{'' if count == 1 else 's'} written",
            passages=(Passage("The text and how it goes on", whole),),
        )
