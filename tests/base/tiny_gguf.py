"""A GGUF file of the tiny Llama, written by the format's own library."""

import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize
from safetensors.numpy import load_file

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """What the format calls a tensor of a Llama checkpoint."""
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        layer, _, part = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{layer}.{NAMES[part]}.weight"
    return f"{NAMES[stem]}.weight"


def turned(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key map as the format's rotation pairs them: neighbours, not halves of a head."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def heads_of(name: str, config: dict) -> int | None:
    """Heads of a map whose rows are turned."""
    if "q_proj" in name:
        return config["num_attention_heads"]
    return config["num_key_value_heads"] if "k_proj" in name else None


def write_gguf(
    path: Path,
    source: Path,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    *,
    without: str = "",
    **changes: object,
) -> Path:
    """Write the checkpoint in `source`; maps in type `kind`, norms in single precision.

    Args:
        path: The file.
        source: A folder that `tiny_base_folder` made of a Llama.
        kind: Type of what has rows.
        without: A tensor to leave out.
        changes: `words`, `model`, `layers`, `length`, `tokens` instead of the checkpoint's own.
    """
    config = json.loads((source / "config.json").read_text())
    backend = json.loads((source / "tokenizer.json").read_text())
    writer = GGUFWriter(path, changes.get("model", "llama"))
    writer.add_name("tiny")
    writer.add_block_count(changes.get("layers", config["num_hidden_layers"]))
    writer.add_context_length(changes.get("length", config["max_position_embeddings"]))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    special = {entry["content"] for entry in backend["added_tokens"]}
    tokens = sorted(backend["model"]["vocab"], key=backend["model"]["vocab"].__getitem__)
    tokens += [f"<extra {at}>" for at in range(int(str(changes.get("tokens", 0))))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(changes.get("words", "gpt-2"))
    writer.add_token_list(tokens)
    writer.add_token_types(
        [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    )
    merges = backend["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    writer.add_bos_token_id(tokens.index("<s>"))
    writer.add_eos_token_id(tokens.index("</s>"))
    writer.add_unk_token_id(tokens.index("<unk>"))
    writer.add_add_bos_token(True)
    writer.add_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")
    for name, weight in load_file(source / "model.safetensors").items():
        if name == without:
            continue
        heads = heads_of(name, config)
        own = turned(weight, heads) if heads else weight
        if own.ndim > 1:
            writer.add_tensor(gguf_name(name), quantize(own, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
