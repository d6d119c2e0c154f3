"""Fixtures of all tests: tiny bases on disk, the embedded base, and the real data if any."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Never the user's own.
os.environ["WEFT_CACHE"] = tempfile.mkdtemp(prefix="weft-cache-")

from typing import Any

import pytest
import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoConfig, PreTrainedTokenizerFast

from tests.tiny_tasks import write_tasks
from weft.base.loading import Base, load_base

torch.set_num_threads(1)
transformers.logging.disable_progress_bar()

MODEL_TYPES = ("bert", "distilbert", "roberta", "modernbert", "gpt2", "llama")

TINY_POSITIONS = 128
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_CLASSES = {
    # With heads, as on the hub: BERT's checkpoint has a pooler, RoBERTa's lacks it.
    "bert": (transformers.BertForPreTraining, {"intermediate_size": 64}),
    "distilbert": (transformers.DistilBertForMaskedLM, {"hidden_dim": 64}),
    "roberta": (
        transformers.RobertaForMaskedLM,
        # Positions start behind the pad token's number, 1.
        {"intermediate_size": 64, "type_vocab_size": 1, "max_position_embeddings": 130},
    ),
    "modernbert": (
        transformers.ModernBertForMaskedLM,
        {"intermediate_size": 64, "local_attention": 16},
    ),
    "gpt2": (transformers.GPT2LMHeadModel, {"n_inner": 64}),
    "llama": (transformers.LlamaForCausalLM, {"intermediate_size": 64, "num_key_value_heads": 2}),
}
_WORDS = """
the of and to in a is was that for on with as by he she it at from his her are were an be this
not or have had they which one you all we can has there been if more when will would who so no
good bad film book red blue green big small cat dog house city river paris london berlin john
mary man woman child said went came made found new old first last time year day work world
people
""".split()  # noqa: SIM905 - a list of a hundred literals reads worse


def wordpiece_tokenizer(inputs: list[str]) -> PreTrainedTokenizerFast:
    """Lower-casing WordPiece over common words and single characters, making the `inputs` named."""
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*specials, *characters, *(f"##{c}" for c in characters), *_WORDS]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=inputs,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def byte_level_tokenizer(model_type: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the special tokens of RoBERTa, ModernBERT, GPT-2 or Llama."""
    names = {
        "roberta": {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"},
        "modernbert": {
            "cls": "[CLS]",
            "pad": "[PAD]",
            "sep": "[SEP]",
            "unk": "[UNK]",
            "mask": "[MASK]",
        },
        "gpt2": {"bos": "<|endoftext|>"},
        "llama": {"unk": "<unk>", "bos": "<s>", "eos": "</s>"},
    }[model_type]
    if model_type == "roberta":
        names |= {"cls": "<s>", "sep": "</s>"}
    if model_type == "gpt2":
        names |= {"eos": "<|endoftext|>", "unk": "<|endoftext|>"}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(dict.fromkeys(names.values())),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(_WORDS)] * 2, trainer)
    frame = {
        "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
        "modernbert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"),
        "gpt2": ("$A", "$A $B"),
        "llama": ("<s> $A", "<s> $A <s> $B"),
    }[model_type]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=frame[0],
        pair=frame[1],
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in set(names.values())],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{kind}_token": name for kind, name in names.items()},
    )


def tiny_base_folder(model_type: str, folder: Path) -> Path:
    """Save a random checkpoint of two layers, with its tokenizer, in `folder`; always the same one.

    Every parameter is random, biases and norms too, so that a lost one shows.
    """
    if model_type == "bert":
        tokenizer = wordpiece_tokenizer(["input_ids", "token_type_ids", "attention_mask"])
    elif model_type == "distilbert":
        tokenizer = wordpiece_tokenizer(["input_ids", "attention_mask"])
    else:
        tokenizer = byte_level_tokenizer(model_type)
    kind, settings = _CLASSES[model_type]
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")
    }
    if model_type == "modernbert":
        special |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
        special |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    values = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TINY_POSITIONS,
        **_SIZES,
        **special,
        **settings,
    }
    config = AutoConfig.for_model(model_type, **values)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(MODEL_TYPES.index(model_type))
        model = kind(config)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pytest_unconfigure() -> None:
    """Leave no cache behind."""
    shutil.rmtree(os.environ["WEFT_CACHE"], ignore_errors=True)


@pytest.fixture(params=MODEL_TYPES)
def model_type(request: pytest.FixtureRequest) -> str:
    """Each architecture in turn."""
    return request.param


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """From a model type to the folder of its tiny checkpoint; made once, never to be changed."""
    made: dict[str, Path] = {}

    def folder(model_type: str) -> Path:
        if model_type not in made:
            made[model_type] = tiny_base_folder(model_type, tmp_path_factory.mktemp(model_type))
        return made[model_type]

    return folder


@pytest.fixture(scope="session")
def minilm() -> Base:
    """The embedded base, shared by all tests: models on it leave it as it is."""
    return load_base("minilm")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the real data sets."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WEFT_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; set WEFT_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tasks; never to be changed."""
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def run_of(tiny_folder: Callable[[str], Path], tasks_folder: Path) -> Callable[..., dict[str, Any]]:
    """Settings of a short run on a tiny base, double precision and no dropout unless asked otherwise."""

    def settings(*tasks: str, base: str = "bert", **values: Any) -> dict[str, Any]:
        named = [{"name": str(tasks_folder / name / f"{name}.yaml")} for name in tasks]
        training = {
            "max_steps": 8,
            "batch_size": 4,
            "learning_rate": 5e-3,
            "precision": "fp64",
            "base_dropout": 0.0,
        } | values.pop("training", {})
        what = {"task": named[0]} if len(named) == 1 else {"tasks": named}
        return {"base": str(tiny_folder(base)), "training": training, "seed": 3, **what, **values}

    return settings
