"""How rows are asked about."""

from typing import Literal, TypedDict

from pydantic import Field

from weft.config import Settings

Normalise = Literal["characters", "tokens", "none"]


class Said(TypedDict, total=False):
    """What of `Prompting` is said by keywords."""

    base: str
    shots: int
    nearest: bool
    style: str
    retrieve: int
    corpus: str | None
    chat: bool
    normalise: Normalise
    max_new_tokens: int | None
    thought_tokens: int
    cache: bool
    seed: int


class Prompting(Settings):
    """How rows are asked about; all but the rows themselves."""

    base: str = "smollm2"
    """A base that writes (`weft list bases`), or the run folder of an expert of kind `causal_lm`."""
    shots: int = Field(default=0, ge=0)
    """Training rows that are shown with their answers before the question."""
    nearest: bool = False
    """Show the training rows nearest to each question by the sentence encoder, nearest last; else the same rows for
    all, drawn by `seed`."""
    style: str = "direct"
    """A file of `styles/` (`weft list styles`)."""
    retrieve: int = Field(default=0, ge=0)
    """Passages of an index that are put before the question, nearest by the sentence encoder."""
    corpus: str | None = None
    """retrieve: a text file whose paragraphs (parted by blank lines) are the index; None takes the training rows, as
    their kind tells them: paragraphs of questions, other rows with their answers."""
    chat: bool = False
    """Ask by the tokenizer's chat template, examples as turns; else as plain text, examples parted by blank lines."""
    normalise: Normalise = "characters"
    """What the log-likelihood of an option is divided by before options are compared: characters (`acc_norm` of
    lm-evaluation-harness), tokens, or nothing (its `acc`)."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest written answer; None takes the kind's own."""
    thought_tokens: int = Field(default=96, ge=1)
    """style chain: longest reasoning."""
    cache: bool = True
    """Read what questions begin with alike once, and what options stand behind once; the answers are the same."""
    seed: int = 0
    """Of drawn examples and of intervals."""
