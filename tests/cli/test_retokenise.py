"""`weft retokenise`."""

from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Said
from weft.base.loading import load_base


def test_a_base_gets_a_tokenizer_of_a_corpus(
    say: Callable[..., Said], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("as cidades do mundo\nas casas das cidades do mundo\n", encoding="utf-8")
    out = tmp_path / "out"
    said = say("retokenise", tiny_folder("llama"), out, "--corpus", corpus, "--size", 400)
    assert said.code == 0
    assert said.out.strip() == str(out)
    tokens = len(load_base(str(out)).tokenizer)
    assert f"{tokens} tokens in place of" in said.err
    assert "tokens a byte, before" in said.err
    assert f"the corpus (2 lines) has {tokens} tokens, not the 400 asked for" in said.err


def test_what_cannot_be_done_is_said_without_a_traceback(
    say: Callable[..., Said], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    said = say("retokenise", tiny_folder("llama"), tmp_path / "out")
    assert said.code == 2
    assert "say which tokenizer" in said.err
