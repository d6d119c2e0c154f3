"""A tokenizer of the same make as another one, its tokens those of a corpus: trained by the library tokenizers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from weft import guard
from weft.base.digest import file_sha256
from weft.scoped import tell
from weft.tasks.language.pieces import pieces_of
from weft.vocabulary.record import CorpusFile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BYTES = 256
"""The alphabet of a byte-level vocabulary, which it cannot do without."""


def read_corpus(files: Sequence[str | Path]) -> tuple[list[str], list[CorpusFile]]:
    """The lines of plain-text files that hold something, and what the files were.

    Raises:
        ValueError: If a file is missing or no text, or there is no line in any.
    """
    lines: list[str] = []
    read = []
    for file in map(Path, files):
        own = [line for line in guard.read_text(file).splitlines() if line.strip()]
        lines += own
        read.append(CorpusFile(name=file.name, sha256=file_sha256(file), lines=len(own)))
    if not lines:
        names = ", ".join(map(str, files)) or "no file"
        raise ValueError(
            f"the corpus is empty: {names}; give text, a sentence or a paragraph a line"
        )
    return lines, read


def check_size(old: "PreTrainedTokenizerFast", size: int) -> None:
    """Refuse a vocabulary that would not hold its alphabet, as far as it is known before training.

    Raises:
        ValueError: Says how many tokens there are at least.
    """
    special = len(old.added_tokens_decoder)
    least = special + (BYTES if pieces_of(old).form == "bytes" else 1)
    if size < least:
        raise _too_small(size, least, special)


def trained(
    old: "PreTrainedTokenizerFast", lines: Sequence[str], size: int
) -> "PreTrainedTokenizerFast":
    """A tokenizer of `size` tokens, or as many as the corpus has, of the make of `old`.

    Normalisation, the cut into words, special tokens, what is put around a text and the chat template are the old
    one's; the tokens are the corpus'.

    Args:
        old: Whose make it has.
        lines: The corpus.
        size: Tokens, special ones and the alphabet included.

    Raises:
        ValueError: If `size` is smaller than the alphabet with the special tokens.
    """
    check_size(old, size)
    tell(f"training a tokenizer of {size:,} tokens on {len(lines):,} lines")
    new = old.train_new_from_iterator(lines, vocab_size=size, show_progress=False)
    if len(new) > size:
        # Where the alphabet is the corpus' own it is known only now.
        raise _too_small(size, len(new), len(old.added_tokens_decoder))
    new.chat_template = old.chat_template
    return new


def _too_small(size: int, least: int, special: int) -> ValueError:
    return ValueError(
        f"size {size}: the alphabet and {special} special tokens alone are {least} tokens; give a larger size"
    )
