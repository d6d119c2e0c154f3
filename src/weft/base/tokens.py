"""Tokens and segments that a base's tables have no row for, found before the base meets them."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from weft.base.loading import Base

_SEGMENTS = 2
"""A pair of texts has so many."""


def check_tokens(base: Base, records: Iterable[Mapping[str, Any]]) -> None:
    """Refuse encoded rows that hold a token or a segment the base has no embedding of.

    A tokenizer may number more tokens than the embedding has rows (padding up is common, adding tokens without
    enlarging is a mistake); only rows that use them are refused.

    Args:
        base: Whose tokenizer encoded them.
        records: With `input_ids` by sequence and, where the base has them, `token_type_ids`; `id` names the row.

    Raises:
        ValueError: Naming row and token, and how to enlarge the base.
    """
    rows = embedding_rows(base)
    highest = max(len(base.tokenizer) - 1, *base.tokenizer.added_tokens_decoder, 0)
    if highest >= rows:
        for record in records:
            _check_record(base, record, rows, highest + 1)
    if "token_type_ids" not in base.tokenizer.model_input_names:
        return
    table = getattr(base.trunk, "embeddings", None)
    kinds = getattr(getattr(table, "token_type_embeddings", None), "num_embeddings", None)
    for record in records if isinstance(kinds, int) and kinds < _SEGMENTS else ():
        if any(number >= kinds for ids in record.get("token_type_ids", ()) for number in ids):
            raise ValueError(
                f"row {record.get('id', '?')!r}: the tokenizer of {base.name} numbers a second text's segment 1, "
                f"but the base has {kinds} segment; give its tokenizer `model_input_names` without token_type_ids"
            )


def embedding_rows(base: Base) -> int:
    """How many tokens the base has an embedding of."""
    table = base.trunk.get_input_embeddings()
    return table.weight.shape[0] if isinstance(table, nn.Embedding) else base.config.vocab_size


def _check_record(base: Base, record: Mapping[str, Any], rows: int, tokens: int) -> None:
    number = max((max(ids, default=0) for ids in record["input_ids"]), default=0)
    if "vocabulary" in record:
        # Masked language modelling puts any token in another's place.
        number = max(number, record["vocabulary"][0], record["vocabulary"][1] - 1)
    if number < rows:
        return
    token = base.tokenizer.convert_ids_to_tokens(number)
    raise ValueError(
        f"row {record.get('id', '?')!r} holds the token {token!r}, number {number}: the tokenizer of {base.name} has "
        f"{tokens} tokens, its embedding {rows} rows. Enlarge the base with transformers "
        f"(model.resize_token_embeddings({tokens}), then save_pretrained), or take the token out of the tokenizer"
    )
