"""What the tokens of a vocabulary stand for, in bytes; which of them are parts of characters.

Three forms are known: byte-level BPE (GPT-2, Llama 3, Qwen), where each letter of a token is a byte; vocabularies with
byte fallback (Llama 2, Gemma), where `<0xE6>` is a byte and a low line stands for a space; WordPiece, where `##` goes
on with a word. A byte-level token may hold half of a character, which is the same fallback under another name.
"""

import codecs
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Form = Literal["bytes", "spaces", "words", "plain"]
"""Letters are bytes; a low line is a space; `##` goes on with a word; tokens are text as it is."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"


@dataclass(frozen=True)
class Pieces:
    """A vocabulary, token by token.

    Attributes:
        form: How tokens are written.
        tokens: As they are written, by number; "" where a number has none.
        bytes: What each stands for; None for special and missing tokens, which stand for no text.
        raw: Numbers of the tokens that are a byte, or hold a part of a character.
    """

    form: Form
    tokens: tuple[str, ...]
    bytes: tuple[bytes | None, ...]
    raw: frozenset[int]

    def joins(self, ids: Sequence[int]) -> list[bool]:
        """Of each token of a text whether it begins inside a character, and so belongs to the token before it."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        found = []
        for number in ids:
            own = self.bytes[number]
            found.append(own is not None and bool(decoder.getstate()[0]))
            if own is None:
                decoder.reset()
            else:
                decoder.decode(own)
        return found

    def is_raw(self, number: int) -> bool:
        """Whether a token is a byte, or holds a part of a character."""
        return number in self.raw


def pieces_of(tokenizer: "PreTrainedTokenizerFast") -> Pieces:
    """The vocabulary of a tokenizer."""
    return _pieces(tokenizer, len(tokenizer))


@lru_cache(maxsize=2)  # asked for every row
def _pieces(tokenizer: "PreTrainedTokenizerFast", size: int) -> Pieces:
    """The vocabulary; a tokenizer that was given tokens since is another one, by its size."""
    said = json.loads(tokenizer.backend_tokenizer.to_str())
    form = _form(said)
    vocabulary = tokenizer.get_vocab()
    special = {n for n, token in tokenizer.added_tokens_decoder.items() if token.special}
    added = set(tokenizer.added_tokens_decoder)
    tokens = [""] * (max(vocabulary.values(), default=-1) + 1)
    for token, number in vocabulary.items():
        tokens[number] = token
    letters = _letters() if form == "bytes" else {}
    found: list[bytes | None] = []
    for number, token in enumerate(tokens):
        if number in special or not token:
            found.append(None)
        elif number in added:
            # Added tokens are text as it is, in every form.
            found.append(token.encode())
        else:
            found.append(_bytes(token, form, letters))
    raw = {
        number
        for number, own in enumerate(found)
        if own is not None
        and (_is_part(own) or (form != "bytes" and _BYTE.fullmatch(tokens[number])))
    }
    return Pieces(form, tuple(tokens), tuple(found), frozenset(raw))


def _form(said: dict[str, Any]) -> Form:
    kinds = {
        own.get("type") for part in ("pre_tokenizer", "decoder") for own in _parts(said.get(part))
    }
    if "ByteLevel" in kinds:
        return "bytes"
    if said["model"].get("type") == "WordPiece" or "WordPiece" in kinds:
        return "words"
    replaces = [
        own
        for part in ("normalizer", "pre_tokenizer", "decoder")
        for own in _parts(said.get(part))
        if own.get("type") in ("Metaspace", "Replace")
        and _SPACE in json.dumps(own, ensure_ascii=False)
    ]
    return "spaces" if replaces else "plain"


def _parts(said: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A component of a tokenizer's file, and those inside it."""
    if said is None:
        return []
    inside = [
        own for name in ("pretokenizers", "normalizers", "decoders") for own in said.get(name, ())
    ]
    return [said, *(part for own in inside for part in _parts(own))]


def _letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode  # slow to import

    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def _bytes(token: str, form: Form, letters: dict[str, int]) -> bytes:
    if form == "bytes":
        # A letter that is none of the 256 stands for itself.
        return b"".join(
            bytes([letters[letter]]) if letter in letters else letter.encode() for letter in token
        )
    byte = _BYTE.fullmatch(token)
    if byte is not None:
        return bytes([int(byte[1], 16)])
    if form == "spaces":
        return token.replace(_SPACE, " ").encode()
    return token.removeprefix("##").encode() if form == "words" else token.encode()


def _is_part(own: bytes) -> bool:
    try:
        own.decode()
    except UnicodeDecodeError:
        return True
    return False
