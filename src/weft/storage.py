"""Experts on disk: one folder each, whole or not at all.

    weft.json                                     what the expert is: its card
    adapter_config.json, adapter_model.safetensors   the exact plain LoRA, for PEFT and for serving
    native.safetensors                            what a variant trained, where that is more than A, B and alpha
    head.safetensors                              instead of PEFT's two, for an expert without adapters: PEFT refuses
                                                  a config without targets
    config.json, model.safetensors, tokenizer     instead of all those, for recipe `full`
"""

import copy
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from torch import Tensor, nn

from weft.adapters.base import Adapter
from weft.atomic import atomic_folder, write_tensors, write_text
from weft.base import Base, checkpoint_tensors, config_of, load_base
from weft.config import RecipeSettings, validate
from weft.data import find_kind
from weft.dense import write_checkpoint
from weft.expert import Card, Expert
from weft.heads import Head, trained_dtype
from weft.locate import ALIASES
from weft.lowrank.attach import canonical, frozen_linear, original
from weft.lowrank.checkpoint import PeftFolder, read_peft, read_tensors, write_peft
from weft.model import Model
from weft.recipes import Recipe, resolve
from weft.tasks.base import TaskSpec

CARD = "weft.json"
NATIVE = "native.safetensors"
HEAD = "head.safetensors"
FORMAT = 1
"""Grows when `weft.json` or the files beside it change meaning."""
TASK_TYPES = {
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "span_extraction": "QUESTION_ANS",
    "causal_lm": "CAUSAL_LM",
    "multiple_choice": None,
    "masked_lm": None,
}
"""PEFT's task type by kind; None where PEFT has none."""
