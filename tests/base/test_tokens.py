"""Tokens that the embedding has no row for are refused where a row holds them, before the first step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from tests.conftest import tiny_base_folder
from weft.answering.generation import Generation, prompt_ids
from weft.answering.inference import padding_id
from weft.answering.prediction import predict
from weft.base.loading import Base, load_base
from weft.base.tokens import check_tokens, embedding_rows
from weft.training.loop import train


@pytest.fixture
def grown(tmp_path: Path) -> Callable[..., Path]:
    """A base whose tokenizer got more tokens, its embedding no rows."""

    def folder(model_type: str, **tokens: Any) -> Path:
        made = tiny_base_folder(model_type, tmp_path / model_type)
        tokenizer = AutoTokenizer.from_pretrained(made)
        tokenizer.add_tokens(["<user>", "<url>"])
        tokenizer.add_special_tokens(tokens)
        tokenizer.save_pretrained(made)
        return made

    return folder


def run_on(
    base: Path, folder: Path, validation: str = "", kind: str = "sequence_classification"
) -> dict[str, Any]:
    folder.mkdir()
    rows = "text,label\n" + "the good cat,pos\nthe bad dog,neg\n" * 4
    (folder / "train.csv").write_text(rows)
    (folder / "validation.csv").write_text(rows + validation)
    (folder / "t.yaml").write_text(yaml.safe_dump({"kind": kind, "name": "t"}))
    return {
        "base": str(base),
        "task": {"name": str(folder / "t.yaml"), "data": str(folder)},
        "recipe": {"name": "lora", "rank": 2},
        "training": {"max_steps": 2, "batch_size": 4},
    }


def test_a_row_with_such_a_token_is_refused_before_the_first_step(
    grown: Callable[..., Path], tmp_path: Path
) -> None:
    base = grown("bert")
    rows = embedding_rows(load_base(str(base)))
    expected = (
        rf"'<user>', number {rows}: the tokenizer of .* has {rows + 2} tokens, its embedding {rows} rows. Enlarge "
        rf"the base with transformers \(model.resize_token_embeddings\({rows + 2}\)"
    )
    with pytest.raises(ValueError, match=f"row 'validation-8' holds the token {expected}"):
        train(run_on(base, tmp_path / "one", "hello <user> good,pos\n"), out=tmp_path / "refused")
    assert not (tmp_path / "refused").exists() or not list((tmp_path / "refused").iterdir())
    # Rows without it train, and a text with it is refused by its number.
    done = train(run_on(base, tmp_path / "none"), out=tmp_path / "run")
    assert len(predict(done.path, ["a good cat"])) == 1
    with pytest.raises(ValueError, match=f"holds the token {expected}"):
        predict(done.path, ["a good cat", "hello <user>"])


def test_a_prompt_with_such_a_token_is_refused(grown: Callable[..., Path]) -> None:
    base = load_base(str(grown("gpt2")))
    prompt_ids(base, "the good", Generation(max_new_tokens=4), "prompt 0")
    with pytest.raises(ValueError, match="row 'prompt 1' holds the token '<url>'"):
        prompt_ids(base, "the <url> good", Generation(max_new_tokens=4), "prompt 1")


def test_padding_beyond_the_embedding_is_another_token(grown: Callable[..., Path]) -> None:
    base = load_base(str(grown("gpt2", pad_token="<pad>")))
    assert base.tokenizer.pad_token_id >= embedding_rows(base)
    assert padding_id(base) == 0


def record(*ids: int, **more: Any) -> dict[str, Any]:
    return {"id": "7", "input_ids": [list(ids)], **more}


def test_tokens_that_only_hiding_would_bring_in_are_refused_too(grown: Callable[..., Path]) -> None:
    base = load_base(str(grown("bert")))
    rows = embedding_rows(base)
    check_tokens(base, [record(5, rows - 1, vocabulary=[4, rows])])
    for vocabulary in ([rows, rows], [4, rows + 1]):
        with pytest.raises(ValueError, match="row '7' holds the token '<user>'"):
            check_tokens(base, [record(5, vocabulary=vocabulary)])


def test_a_second_segment_needs_a_row_of_its_own(tiny_folder: Callable[[str], Path]) -> None:
    base: Base = load_base(str(tiny_folder("bert")))
    pair = record(2, 5, 3, 6, 3, token_type_ids=[[0, 0, 0, 1, 1]])
    check_tokens(base, [pair])
    base.trunk.embeddings.token_type_embeddings = torch.nn.Embedding(1, 32)
    check_tokens(base, [record(2, 5, 3, token_type_ids=[[0, 0, 0]])])
    with pytest.raises(
        ValueError, match="numbers a second text's segment 1, but the base has 1 segment"
    ):
        check_tokens(base, [pair])


def test_a_tokenizer_makes_no_inputs_that_the_trunk_does_not_read(tmp_path: Path) -> None:
    folder = tiny_base_folder("distilbert", tmp_path / "b")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    assert load_base(str(folder)).tokenizer.model_input_names == ["input_ids", "attention_mask"]
