"""What architectures have: positions, attention, code of their own; found in the checkpoint, not by name."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from tests.architectures import randomised, save, tiny_config
from weft.base.attention import NAME, attention, available
from weft.base.loading import load_base
from weft.base.positions import max_positions
from weft.config import load_run
from weft.training.assembly import assemble
from weft.training.settings import completed

Folder = Callable[[str], Path]
ROWS = 66
"""Position rows of the tiny configs; their padding token is number 0."""

POSITIONS: dict[str, tuple[dict[str, Any], int | None]] = {
    "bert": ({}, ROWS),
    **dict.fromkeys(
        ("roberta", "roberta-prelayernorm", "data2vec-text", "xlm-roberta-xl", "camembert", "xmod"),
        ({}, ROWS - 1),
    ),
    "xlm-roberta": ({"pad_token_id": 1}, ROWS - 2),
    **dict.fromkeys(("mpnet", "longformer", "esm"), ({"pad_token_id": 1}, ROWS - 2)),
    **dict.fromkeys(("albert", "big_bird", "distilbert", "electra", "xlm", "rembert"), ({}, ROWS)),
    # Two more rows than it says, which it skips by an offset.
    **dict.fromkeys(("opt", "biogpt"), ({}, ROWS)),
    **dict.fromkeys(("gpt2", "gptj", "codegen", "ctrl", "roformer", "gpt_neo"), ({}, ROWS)),
    **dict.fromkeys(("llama", "modernbert", "gemma2", "eurobert"), ({}, ROWS)),
    "deberta": ({}, ROWS),
    # Biases by distance, made for so many tokens.
    "mpt": ({}, ROWS),
    **dict.fromkeys(("deberta-v2", "bloom", "xlnet", "mamba"), ({}, None)),
    # With a table beside what is relative.
    "deberta-v2 ": ({"position_biased_input": True}, ROWS),
}


def trunk_of(model_type: str, **values: Any) -> PreTrainedModel:
    config = tiny_config(model_type.strip(), **values)
    return randomised(AutoModel._model_mapping[type(config)], config)


def runs(trunk: PreTrainedModel, length: int) -> bool:
    ids = torch.full((1, length), 7)
    try:
        with torch.no_grad():
            trunk(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("model_type", POSITIONS)
def test_positions_are_those_that_the_trunk_can_number(model_type: str) -> None:
    values, expected = POSITIONS[model_type]
    trunk = trunk_of(model_type, **values)
    assert max_positions(trunk) == expected
    is_rotary = any("inv_freq" in name for name, _ in trunk.named_buffers())
    if expected is None:
        assert runs(trunk, 3 * ROWS)
    elif model_type != "longformer":  # pads to its window by itself
        assert runs(trunk, expected)
        # Rotations have no last one: there the limit is what the checkpoint was made for.
        assert runs(trunk, expected + 1) == is_rotary


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("bert", {"sdpa": "sdpa", NAME: NAME}),
        ("deberta-v2", {"sdpa": "eager", NAME: "eager"}),
        ("mpnet", {"sdpa": "eager", NAME: "eager"}),
        # Their scores are capped, or have sinks: SDPA and ours would leave that out.
        ("gemma2", {"sdpa": "eager", NAME: "eager"}),
        ("gpt_oss", {"sdpa": "eager", NAME: "eager"}),
    ],
)
def test_attention_falls_back_where_an_architecture_has_no_other(
    model_type: str, expected: dict[str, str], tmp_path: Path
) -> None:
    trunk = trunk_of(model_type)
    save(trunk, tmp_path)
    for wanted, taken in expected.items():
        assert available(wanted, type(trunk)) == taken
        assert load_base(str(tmp_path), attention=wanted).config._attn_implementation == taken
    assert load_base(str(tmp_path), attention="eager").config._attn_implementation == "eager"


def test_training_leaves_attention_that_ours_cannot_stand_for(tmp_path: Path) -> None:
    save(
        randomised(AutoModel._model_mapping[type(tiny_config("gemma2"))], tiny_config("gemma2")),
        tmp_path,
    )
    (tmp_path / "t.yaml").write_text("kind: causal_lm\nformat: text\nmax_length: 32\nstride: 1\n")
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text("good film\n\nbad book\n")
    run = {
        "base": str(tmp_path),
        "task": {"name": str(tmp_path / "t.yaml"), "data": str(tmp_path)},
        "training": {"base_dropout": 0.1, "max_steps": 1},
    }
    session = assemble(completed(load_run(run)), torch.device("cpu"))
    assert session.model.base.config._attn_implementation == "eager"


def test_own_attention_adds_a_bias_of_positions_as_sdpa_does() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 4, 6, 8, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    bias = torch.randn(1, 4, 6, 6, generator=generator, dtype=torch.float64)
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    mask[1, ..., 4:] = False
    layer = nn.Module()
    said = {"is_causal": False, "position_bias": bias}
    expected, _ = attention(layer, query, key, value, mask, **said)  # hands over to SDPA
    own, _ = attention(layer, query, key, value, mask, dropout=1e-9, **said)
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-12)
    plain, _ = attention(layer, query, key, value, mask, is_causal=False)
    assert not torch.allclose(plain, expected)


def test_a_trunk_never_changes_its_attention_by_what_it_reads(tmp_path: Path) -> None:
    config = tiny_config(
        "big_bird", attention_type="block_sparse", block_size=2, num_random_blocks=1
    )
    save(randomised(AutoModel._model_mapping[type(config)], config), tmp_path)
    trunk = load_base(str(tmp_path)).trunk
    before = [type(module) for module in trunk.modules()]
    long, short = torch.full((1, 60), 7), torch.full((1, 4), 7)
    with torch.no_grad():
        first = trunk(input_ids=long).last_hidden_state
        trunk(input_ids=short)
        assert torch.equal(trunk(input_ids=long).last_hidden_state, first)
    assert [type(module) for module in trunk.modules()] == before


@pytest.mark.parametrize("known", [True, False])
def test_code_beside_a_checkpoint_is_never_run(
    known: bool, tiny_folder: Folder, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder("bert"), tmp_path / "bert"))
    done = tmp_path / "done"
    code = f"import pathlib\npathlib.Path({str(done)!r}).touch()\n"
    code += "from transformers import BertConfig as Own, BertModel as OwnModel\n"
    (folder / "own.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "own.Own",
        **dict.fromkeys(("AutoModel", "AutoModelForSequenceClassification"), "own.OwnModel"),
    }
    config["model_type"] = "bert" if known else "berd"
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["own.Own", "own.Own"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    lines = [
        "import sys",
        "from weft.base.loading import load_base, skeleton",
        "from weft.catalogue.pages import described",
        "from weft.model.head import Head",
        "for call in (lambda: Head('sequence_classification', load_base(sys.argv[1]), 2, seed=0),",
        "             lambda: skeleton(sys.argv[1]), lambda: described('base', sys.argv[1])):",
        "    try: call(); print('done')",
        "    except ValueError as error: print(error)",
    ]
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        input="y\ny\ny\ny\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.exists()
    assert ran.stderr == ""
    said = ran.stdout.splitlines()
    assert len(said) == 3
    for line in said:
        if known:
            assert line == "done" or "trust_remote_code" in line
        else:
            assert (
                "has no model type 'berd' (the nearest is 'bert'); the folder's own code is never run"
                in line
            )


def test_a_config_that_says_nothing_is_refused(tiny_folder: Folder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder("bert"), tmp_path / "bert"))
    for text, expected in (
        ("{", ":1: not JSON"),
        ("[" * 20_000, ":(1: not JSON| lists and mappings nested deeper)"),
        ("[]", "is damaged: expected a JSON mapping"),
        ("{}", "has no model type None"),
        ('{"model_type": ["bert"]}', r"has no model type \['bert'\]"),
        (
            '{"model_type": "bert", "hidden_size": "wide"}',
            "is no config that transformers can read",
        ),
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=f"config.json.*{expected}") as told:
            load_base(str(folder))
        assert len(str(told.value)) < 600
