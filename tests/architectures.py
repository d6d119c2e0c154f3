"""Tiny random checkpoints of every model type that transformers can make small."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from tests.conftest import wordpiece_tokenizer
from weft.model.heads import heads, kind_of

_SIZES = {
    32: """hidden_size d_model n_embd dim emb_dim embed_dim embedding_dim embedding_size input_embedding_size
        output_embedding_size lru_width attention_hidden_size word_embed_proj_dim pooler_hidden_size entity_emb_size
        intra_bottleneck_size true_hidden_size d_latents pronunciation_embed_dim shape_embed_dim
        ple_embed_dim router_hidden_size prediction_head_size hidden_size_per_layer_input embedding_rank""",
    64: """intermediate_size ffn_dim n_inner hidden_dim d_ff dff dim_ff encoder_ffn_dim decoder_ffn_dim
        ffn_hidden_size moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size d_inner
        feed_forward_size expert_ffn_hidden_size intermediate_size_mlp moe_shared_expert_intermediate_size
        shared_experts_intermediate_size dense_intermediate_size prompt_mid_dim mamba_d_ssm""",
    2: """num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers num_encoder_layers
        num_decoder_layers num_blocks num_layers_per_stack num_self_attends_per_block num_experts_per_tok moe_topk
        num_experts_per_token moe_k num_feedforward_networks num_key_value_heads num_kv_heads linear_num_key_heads
        linear_num_value_heads n_groups index_n_heads num_hash l_layers x_layers r_layers swa_num_key_value_heads
        o_groups q_groups k_groups v_groups intermediate_groups output_groups num_shared_experts
        moe_num_shared_experts n_shared_experts num_query_groups linear_num_heads n_mamba_heads""",
    4: """num_attention_heads n_head num_heads n_heads attention_heads encoder_attention_heads
        decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads num_experts n_routed_experts
        num_local_experts moe_num_experts swa_num_attention_heads num_self_attention_heads
        num_cross_attention_heads""",
    8: """head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim d_head d_kv attention_head_size dim_head
        linear_key_head_dim linear_value_head_dim linear_head_dim index_head_dim swa_head_dim attention_head_dim
        kv_channels kv_lora_rank q_lora_rank o_lora_rank mamba_head_dim mamba_d_head ssm_state_size mamba_d_state
        state_size chunk_size mamba_chunk_size mamba_n_heads mamba_num_heads time_step_rank mamba_dt_rank rotary_dim
        query_pre_attn_scalar num_landmarks segment_means_seq_len mamba_headdim d_rel hc_lowrank laurel_rank
        adapter_rank""",
    64
    + 2: "max_position_embeddings n_positions max_seq_len n_ctx context_length original_max_position_embeddings",
    128: """rel_extent entity_vocab_size pronunciation_vocab_size shape_vocab_size num_hash_buckets
        ngram_vocab_size_base num_latents vocab_size_per_layer_input index_topk""",
    1: """n_group topk_group num_expert_group first_k_dense_replace num_kv_shared_layers num_dense_layers
        pretraining_tp moe_layer_start_index num_nextn_predict_layers mtp_num_layers""",
}
"""What configs call their sizes, by the size a tiny model has."""
_SIZE_OF = {name: size for size, names in _SIZES.items() for name in names.split()}
_PARTICULAR: dict[str, dict[str, Any]] = {
    "reformer": {
        "axial_pos_shape": [6, 11],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "lsh"],
        "num_buckets": 4,
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "is_decoder": False,
    },
    "albert": {"embedding_size": 16},
    "mobilebert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
    "deberta": {
        "relative_attention": True,
        "max_relative_positions": 16,
        "pos_att_type": ["c2p", "p2c"],
    },
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
        "share_att_key": True,
        "type_vocab_size": 0,
    },
    "dots3_note_text": {"num_key_value_heads": 4},
    "esmc": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mamba2": {"num_heads": 8},
    "funnel": {"block_sizes": [1, 1], "d_head": 8, "architectures": ["FunnelModel"]},
    "zaya": {"num_experts_per_tok": 1},
    "gemma4_text": {"num_kv_shared_layers": 0},
    "gemma4_unified_text": {"num_kv_shared_layers": 0},
    "opt": {"word_embed_proj_dim": 16},
    "lilt": {"hidden_size": 48},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "visual_embed": False},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_key_value_heads": 2},
    "bamba": {"attn_layer_indices": [1]},
    "xmod": {"default_language": "en_XX"},
    "xlstm": {"hidden_size": 64, "num_heads": 4},
    "bailing_hybrid": {"layer_group_size": 2},
}
"""Where the sizes alone make no model."""
_INDEX = ("pad_index", "bos_index", "eos_index", "unk_index", "mask_index", "eod_token_id")


def tiny_config(model_type: str, **values: Any) -> PreTrainedConfig:
    """A config of two layers of this model type, for the words of `wordpiece_tokenizer`.

    Raises:
        Exception: Whatever transformers says where these sizes make no model.
    """
    default = CONFIG_MAPPING[model_type]()
    plain = default.to_dict()
    names = set(plain) | set(getattr(type(default), "__annotations__", {}))
    made: dict[str, Any] = {
        name: _SIZE_OF[name]
        for name in names & set(_SIZE_OF)
        if not isinstance(plain.get(name), dict | list | bool)
    }
    for name, value in plain.items():
        if "layer" in name and isinstance(value, list) and value and isinstance(value[0], str):
            # One layer of each of the first two kinds.
            first = list(dict.fromkeys(value))
            made[name] = (first * 2)[:2]
    if "kv_lora_rank" in made:
        # Latent attention has as many keys as queries.
        made["num_key_value_heads"] = made["num_attention_heads"]
    tokenizer = wordpiece_tokenizer(["input_ids", "attention_mask"])
    made["vocab_size"] = len(tokenizer)
    made |= {name: 5 for name in names if name.endswith("_token_id")}
    made |= {name: 0 for name in names if name in _INDEX}
    made |= {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3}
    made |= {"sep_token_id": 3, "mask_token_id": 4}
    return CONFIG_MAPPING[model_type](**made | _PARTICULAR.get(model_type, {}) | values)


def randomised(
    kind: type[PreTrainedModel], config: PreTrainedConfig, seed: int = 0
) -> PreTrainedModel:
    """A model whose every parameter is random, biases and norms too, so that a lost one shows."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = kind(config).eval()
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(0.1 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0.0
    return model


def save(model: PreTrainedModel, folder: Path) -> Path:
    """The model with a tokenizer, as a base's folder."""
    model.save_pretrained(folder)
    wordpiece_tokenizer(["input_ids", "attention_mask"]).save_pretrained(folder)
    return folder


def text_model_types() -> list[str]:
    """Every model type that transformers has a task class of some kind for."""
    # `AutoModel` has models of pictures and sounds too.
    classes = {kind_of(name).auto for name in heads.names()} - {"AutoModel"}
    autos = [getattr(transformers, name) for name in classes]
    return sorted({name for auto in autos for name in auto._model_mapping._model_mapping})
