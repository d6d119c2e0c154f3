"""A damaged expert folder loads equal or is refused by a sentence that names the file, within time and memory."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoHaConfig, LoraConfig, VeraConfig, get_peft_model
from safetensors.torch import load_file

from tests.storage.mutants import Source
from tests.storage.xlora_runs import mixed_run
from weft.lowrank.peft.writing import WEIGHTS
from weft.storage.experts import save_expert

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model .*tie_word_embeddings:UserWarning"),
]

SEQ, TOK, LM = "sequence_classification", "token_classification", "causal_lm"
LABELS = {SEQ: ["no", "yes"], TOK: ["O", "B-a", "I-a"]}
OURS = [
    ("bert", SEQ, {}),
    ("roberta", TOK, {"name": "dora", "rank": 2}),
    ("bert", TOK, {"name": "vera", "rank": 5, "alpha": None, "targets": ["query"]}),
    ("llama", LM, {"name": "kasa", "targets": ["query"], "rank": 2}),
    ("gpt2", LM, {"train_also": ["norms"]}),
    ("bert", SEQ, {"name": "head"}),
]
THEIRS = [
    ("bert", SEQ, LoraConfig, {"target_modules": "all-linear"}),
    ("bert", TOK, LoraConfig, {"rank_pattern": {"query": 2}, "alpha_pattern": {"value": 3}}),
    ("bert", SEQ, LoraConfig, {"target_modules": ["query"], "bias": "all"}),
    ("llama", LM, LoraConfig, {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]}),
    ("roberta", SEQ, LoraConfig, {"use_dora": True}),
    ("bert", SEQ, VeraConfig, {"r": 4, "target_modules": ["query"]}),
    ("bert", SEQ, AdaLoraConfig, {"init_r": 4, "total_step": 9, "target_modules": ["query"]}),
    ("bert", SEQ, LoHaConfig, {"r": 2, "target_modules": ["query"]}),
]


@pytest.fixture(scope="module")
def sources(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Good folders: weft's own, PEFT's of several types, one with tensors of torch, and a mixture."""
    place = tmp_path_factory.mktemp("good")
    found = []
    for at, (model_type, kind, recipe) in enumerate(OURS):
        made = lab.make(model_type, kind, **recipe)
        save_expert(made.expert, made.card, made.base, place / f"ours{at}")
        found.append(Source("weft", str(place / f"ours{at}"), made.base.source, {}))
    for at, (model_type, kind, make, settings) in enumerate(THEIRS):
        base = lab.tiny_folder(model_type)
        model = lab.task_class(base, kind, len(LABELS.get(kind, ())))
        said = {"r": 3, "lora_alpha": 5} if make is LoraConfig else {}
        types = {SEQ: "SEQ_CLS", TOK: "TOKEN_CLS", LM: "CAUSAL_LM"}
        opened = get_peft_model(model, make(task_type=types[kind], **(said | settings)))
        lab.shake(value for value in opened.parameters() if value.requires_grad)
        task = {"name": "t", "kind": kind, "labels": LABELS.get(kind)}
        names = [f"theirs{at}"] + (["pickled"] if at == 0 else [])
        for name in names:
            opened.save_pretrained(place / name)
            found.append(Source("peft", str(place / name), str(base.resolve()), task))
    path = place / "pickled" / WEIGHTS
    torch.save(load_file(path), path.with_name("adapter_model.bin"))
    path.unlink()
    run = mixed_run(lab, place / "mixed", precision="fp32")
    found.append(
        Source("mixture", str(run / "mixture"), str(lab.tiny_folder("llama").resolve()), {})
    )
    return found


def faults_of(
    sources: list[Source], cases: list[tuple[int, int]], place: Path
) -> tuple[list[str], Counter[str]]:
    """What is wrong with what became of some mutants, and how many came to what."""
    faults: list[str] = []
    counts: Counter[str] = Counter()
    job = place / "job.json"
    while cases:
        job.write_text(json.dumps({"sources": [asdict(s) for s in sources], "cases": cases}))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.storage.mutants", str(job)],
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line[:1] in "[{"]
        assert lines, done.stderr[-3000:]
        found = [line for line in lines if isinstance(line, dict)]
        for line in found:
            counts[line["outcome"]] += 1
            if line["outcome"] not in ("equal", "meant", "refused"):
                faults.append(
                    f"{line['outcome']} {line['source']}/{line['seed']} {line['did']}: {line['said']}"
                )
        cases = cases[len(found) :]
        if cases:
            # It ended in the middle of one: too long, or killed.
            faults.append(f"ENDED at {cases[0]} with {done.returncode}: {done.stderr[-800:]}")
            cases = cases[1:]
    return faults, counts


def test_a_sample_of_damaged_folders_loads_equal_or_is_refused(
    sources: list[Source], tmp_path: Path
) -> None:
    faults, counts = faults_of(
        sources, [(seed % len(sources), seed) for seed in range(48)], tmp_path
    )
    assert faults == []
    assert sum(counts.values()) == 48
    assert counts["refused"] > 20


@pytest.mark.slow  # a thousand folders take minutes
def test_a_thousand_damaged_folders_load_equal_or_are_refused(
    sources: list[Source], tmp_path: Path
) -> None:
    faults, counts = faults_of(
        sources, [(seed % len(sources), seed) for seed in range(1000, 2000)], tmp_path
    )
    assert faults == []
    assert sum(counts.values()) == 1000
    assert min(counts["equal"], counts["meant"]) > 10
