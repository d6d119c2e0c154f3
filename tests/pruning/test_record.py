"""What a pruned folder says of itself."""

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from transformers import AutoTokenizer

from weft.base.loading import load_base
from weft.pruning.record import read_pruning

Folder = Callable[[str], Path]


def test_a_pruned_folder_says_what_was_done_and_has_the_tokenizer(
    tiny_folder: Folder, half: Folder
) -> None:
    full, small = load_base(str(tiny_folder("bert"))), load_base(str(half("bert")))
    pruning = read_pruning(half("bert"))
    assert (pruning.base_digest, pruning.digest) == (full.digest, small.digest)
    assert (pruning.kind, pruning.ratio, pruning.seed) == ("structured", 0.5, 7)
    assert pruning.source == str(tiny_folder("bert"))
    tokenizers = [AutoTokenizer.from_pretrained(one("bert")) for one in (tiny_folder, half)]
    text = "the good dog said Berlin!"
    assert tokenizers[0](text) == tokenizers[1](text)
    # Heads of the checkpoint come along, for tasks that use them.
    names = [load_file(one("bert") / "model.safetensors").keys() for one in (tiny_folder, half)]
    assert names[0] == names[1]
