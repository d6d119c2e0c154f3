"""A base with another tokenizer: what each new embedding is, and that the folder is a base like any other."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import weft
from tests.conftest import byte_level_tokenizer
from weft.base.loading import load_base
from weft.vocabulary.record import read_record
from weft.vocabulary.retokenise import retokenise
from weft.vocabulary.translation import Translation, translation

CORPUS = """
as cidades do mundo son moitas e as casas das cidades son moitas
unha cidade \u00e9 unha casa de moitas casas, e o mundo \u00e9 unha casa
a xente da cidade vai \u00e1 casa; a casa da xente est\u00e1 na cidade \u65e5\u672c
"""
EMBEDDINGS = {
    "llama": ("model.embed_tokens.weight", "lm_head.weight"),
    "gpt2": ("transformer.wte.weight", ""),
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(CORPUS, encoding="utf-8")
    return path


def expected(
    new: PreTrainedTokenizerFast, old: PreTrainedTokenizerFast, rows: Tensor
) -> dict[int, Tensor]:
    """The equation in double precision, for every token that is text."""
    found = {}
    for token, number in new.get_vocab().items():
        text = new.decode([number])
        if token in new.all_special_tokens:
            found[number] = rows[old.convert_tokens_to_ids(token)].double()
        elif "\ufffd" not in text:
            ids = old(text, add_special_tokens=False)["input_ids"]
            found[number] = sum(
                (count / len(ids) * rows[own].double() for own, count in Counter(ids).items()),
                torch.zeros(rows.shape[1], dtype=torch.float64),
            )
    return found


@pytest.mark.parametrize("model_type", EMBEDDINGS)
def test_embeddings_are_means_of_old_ones_and_all_else_is_untouched(
    model_type: str, tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    base = tiny_folder(model_type)
    out = retokenise(str(base), tmp_path / "out", corpus=[corpus], size=300)
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (base, out))
    before, after = (load_file(folder / "model.safetensors") for folder in (base, out))
    names = {name for name in EMBEDDINGS[model_type] if name in before}
    assert names
    for name in before.keys() - names:
        assert torch.equal(before[name], after[name]), name
    assert before.keys() == after.keys()
    copied = 0
    for name in names:
        assert after[name].shape == (len(new), before[name].shape[1])
        wanted = expected(new, old, before[name])
        # All but the bytes of characters beyond ASCII, and what the corpus joined of them.
        assert len(new) - 128 - 5 <= len(wanted) <= len(new) - 128
        for number, row in wanted.items():
            torch.testing.assert_close(after[name][number], row.float(), rtol=0, atol=1e-7)
        for token, number in new.get_vocab().items():
            if token in old.get_vocab():
                same = before[name][old.convert_tokens_to_ids(token)]
                assert torch.equal(after[name][number], same)
                copied += 1
    record = read_record(out)
    # A token may also be one old token twice.
    assert 256 * len(names) < copied <= record.copied * len(names)
    assert (record.tokens, record.unknown) == (len(new), 0)
    assert record.copied + record.averaged == len(new)
    assert 256 < len(new) <= 300
    assert record.tied == (model_type == "gpt2")
    assert record.tokens_per_byte is not None
    assert record.tokens_per_byte_before is not None
    assert record.tokens_per_byte < record.tokens_per_byte_before
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.vocab_size == len(new)
    assert model.config.eos_token_id == new.eos_token_id
    assert (
        model.config.tie_word_embeddings
        == AutoModelForCausalLM.from_pretrained(base).config.tie_word_embeddings
    )


def test_a_new_token_has_the_weighted_mean_of_old_logits(
    tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    base = tiny_folder("llama")
    out = retokenise(str(base), tmp_path / "out", corpus=[corpus], size=320)
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (base, out))
    made = translation(new, old)
    assert all(sum(own.values()) == pytest.approx(1) for own in made.weights)
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, after = (
        states @ AutoModelForCausalLM.from_pretrained(folder).lm_head.weight.double().T
        for folder in (base, out)
    )
    matrix = torch.zeros(len(new), len(old), dtype=torch.float64)
    for number, own in enumerate(made.weights):
        for other, weight in own.items():
            matrix[number, other] = weight
    assert (matrix > 0).sum(1).max() > 2
    torch.testing.assert_close(after, before @ matrix.T, rtol=1e-6, atol=1e-6)


def test_parts_of_characters_are_means_of_their_bytes(tiny_folder: Callable[[str], Path]) -> None:
    old = AutoTokenizer.from_pretrained(tiny_folder("llama"))
    new = old.train_new_from_iterator(
        ["\u65e5\u672c \u65e5 \u672c\u65e5"] * 3, vocab_size=262, show_progress=False
    )
    parts = [token for token in new.get_vocab() if "\ufffd" in new.decode([new.get_vocab()[token]])]
    long = max(parts, key=len)
    assert len(long) > 1
    own = translation(new, old).weights[new.get_vocab()[long]]
    assert own == {old.get_vocab()[letter]: 1 / len(long) for letter in long}


def test_what_the_old_vocabulary_knows_nothing_of_is_the_unknown_token_or_the_mean() -> None:
    rows = torch.arange(12.0).view(4, 3)
    made = Translation([{1: 0.25, 3: 0.75}, {}], unknown=2)
    torch.testing.assert_close(
        made.rows(rows), torch.stack([0.25 * rows[1] + 0.75 * rows[3], rows[2]])
    )
    assert (made.copied, made.averaged, made.missing) == (0, 1, 1)
    assert torch.equal(Translation([{}], None).rows(rows)[0], rows.mean(0))
    assert torch.equal(Translation([{3: 1.0}, {}], 0).rows(rows[:, 0]), rows[[3, 0], 0])


def test_a_tokenizer_that_is_given_takes_its_specials_by_role(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    given = byte_level_tokenizer("roberta")
    given.save_pretrained(tmp_path / "given")
    out = retokenise(str(tiny_folder("gpt2")), tmp_path / "out", tokenizer=tmp_path / "given")
    before = AutoModelForCausalLM.from_pretrained(tiny_folder("gpt2"))
    after = AutoModelForCausalLM.from_pretrained(out)
    end = before.config.eos_token_id
    rows = after.get_input_embeddings().weight
    assert torch.equal(rows[given.eos_token_id], before.get_input_embeddings().weight[end])
    # One row served as beginning and end.
    assert torch.equal(rows[given.bos_token_id], rows[given.eos_token_id])
    assert (after.config.bos_token_id, after.config.eos_token_id) == (
        given.bos_token_id,
        given.eos_token_id,
    )
    record = read_record(out)
    assert record.tokenizer == str(tmp_path / "given")
    # No token of GPT-2's pads or masks.
    assert record.unknown == 2


def test_a_retokenised_base_trains_reloads_and_exports(
    tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    out = retokenise(str(tiny_folder("llama")), tmp_path / "out", corpus=[corpus], size=300)
    rows = [{"text": line} for line in CORPUS.strip().splitlines()]
    settings: dict[str, Any] = {
        "base": str(out),
        "task": {"name": "galego", "spec": {"kind": "causal_lm", "max_length": 64}},
        "recipe": {"name": "lora", "rank": 2, "train_also": ["embeddings", "lm_head"]},
        "training": {"max_steps": 3, "batch_size": 2, "learning_rate": 1e-3},
        "device": "cpu",
    }
    run = tmp_path / "run"
    weft.train(settings, data={"train": rows, "validation": rows}, out=run)
    first = weft.evaluate(run, data=rows)
    weft.export(run, tmp_path / "merged", "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    nll = 0.0
    for row in rows:
        ids = tokenizer(row["text"], return_tensors="pt")["input_ids"]
        assert ids[0, 0] == tokenizer.bos_token_id
        with torch.no_grad():
            nll += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
    size = sum(len(row["text"].encode()) for row in rows)
    assert not isinstance(first, list)
    bits = first.scores["bits_per_byte"].value
    assert bits == pytest.approx(nll / size / 0.6931471805599453, rel=1e-5)
    assert load_base(str(tmp_path / "merged")).config.vocab_size == len(tokenizer)


def refused(match: str, base: Path, out: Path, **values: Any) -> None:
    with pytest.raises(ValueError, match=match):
        retokenise(str(base), out, **values)
    assert not out.exists()


def test_what_cannot_be_done_is_refused_first(
    tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    llama, out = tiny_folder("llama"), tmp_path / "out"
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n", encoding="utf-8")
    refused("the corpus is empty: .*empty.txt", llama, out, corpus=[empty], size=300)
    refused(
        "size 258: the alphabet and 3 special tokens alone are 259",
        llama,
        out,
        corpus=[corpus],
        size=258,
    )
    refused("a corpus and a size", llama, out, corpus=[corpus])
    refused("a corpus and a size", llama, out, size=300)
    refused("a corpus and a size", llama, out, corpus=[corpus], size=300, tokenizer=llama)
    refused("bert.* is no decoder", tiny_folder("bert"), out, corpus=[corpus], size=300)
    refused("no tokenizer that can be loaded", llama, out, tokenizer=tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="there exists"):
        retokenise(str(llama), tmp_path / "there", corpus=[corpus], size=300)


def test_a_base_whose_tokenizer_has_more_tokens_than_rows_is_refused(
    tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    for name in EMBEDDINGS["llama"]:
        tensors[name] = tensors[name][:250].clone()
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"vocab_size": 250}))
    refused(
        "numbers a token .* its embedding has 250 rows",
        base,
        tmp_path / "out",
        corpus=[corpus],
        size=300,
    )


def test_tokens_of_other_forms_go_by_their_text(
    tiny_folder: Callable[[str], Path],
) -> None:
    bert = AutoTokenizer.from_pretrained(tiny_folder("bert"))
    llama = AutoTokenizer.from_pretrained(tiny_folder("llama"))
    made = translation(bert, llama)
    number = bert.convert_tokens_to_ids("##a")
    assert made.weights[number] == {llama.convert_tokens_to_ids("a"): 1.0}
    assert isinstance(llama.backend_tokenizer, Tokenizer)
    city = bert.convert_tokens_to_ids("city")
    ids = llama("city", add_special_tokens=False)["input_ids"]
    assert made.weights[city] == {own: n / len(ids) for own, n in Counter(ids).items()}
