"""What answers a graph without torch does what the heads and tokenizers that it stands for do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from weft.answering.exported import Tokens
from weft.model.graph import About
from weft.model.heads import kind_of
from weft.tasks.contract import TaskSpec
from weft.tasks.kinds.masked_lm import MaskedLM
from weft.tasks.text import UNLABELLED


def test_a_masked_language_models_outcomes_are_its_heads() -> None:
    logits = torch.randn(2, 7, 40, generator=torch.Generator().manual_seed(0)) * 5
    labels = torch.full((2, 7), UNLABELLED)
    labels[0, 2], labels[1, 5] = 3, 39
    task = MaskedLM(TaskSpec(name="words", kind="masked_lm"))
    for given in (labels, None):
        wanted = kind_of("masked_lm").outputs(logits, given, [[7], [7]])
        for at in range(2):
            own = None if given is None else given[at].tolist()
            found = task.outcomes(logits[at].numpy(), own)
            np.testing.assert_allclose(found, wanted[at][0], rtol=1e-5, atol=1e-6)


def test_tokens_are_those_of_transformers(tiny_folder: Callable[[str], Path]) -> None:
    for model_type in ("bert", "roberta", "llama"):
        theirs = AutoTokenizer.from_pretrained(tiny_folder(model_type))
        about = About(
            task="words",
            kind="masked_lm",
            labels=[],
            inputs=list(theirs.model_input_names),
            axes=["batch", "length"],
            along=["sequence", "token"],
            answers=["logits"],
            pad_id=0,
            mask_id=theirs.mask_token_id,
            special_ids=sorted(theirs.all_special_ids),
            vocabulary=len(theirs),
            max_length=128,
            quantised=None,
            opset=18,
        )
        ours = Tokens(tiny_folder(model_type), about)
        assert ours.vocab_size == theirs.vocab_size
        ids = list(range(len(theirs)))
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
        encoded = ours.backend_tokenizer.encode("the red book")
        assert encoded.ids == theirs("the red book")["input_ids"]
