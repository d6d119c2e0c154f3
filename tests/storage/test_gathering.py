"""Many adapters come in at once, answer as in PEFT, and none of them comes where one is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

from weft.cli import app
from weft.storage.experts import save_expert
from weft.storage.gathering import import_experts
from weft.storage.importing import import_expert
from weft.storage.loading import load_run_model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CONFIGS: dict[str, dict[str, Any]] = {
    "default": {"r": 2, "lora_alpha": 5, "target_modules": ["query", "value"]},
    "ranks": {
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ["query", "dense"],
        "rank_pattern": {"layer.0.output.dense": 5},
        "alpha_pattern": {"layer.1.attention.self.query": 17},
    },
    "more": {"r": 4, "target_modules": ["key"], "modules_to_save": ["classifier"]},
    "dora": {"r": 2, "target_modules": ["value"], "use_dora": True},
}


def answer(lab: Any, run: Path) -> torch.Tensor:
    loaded = load_run_model(run, device="cpu")
    return lab.answer(loaded.model.base, loaded.model.expert(loaded.name), loaded.model)


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "t.yaml"
    path.write_text("kind: sequence_classification\nlabels: ['no', 'yes']\n")
    return str(path)


@pytest.fixture
def theirs(lab: Any, tmp_path: Path) -> Callable[..., tuple[Path, dict[str, torch.Tensor]]]:
    """PEFT saves adapters of one model into a folder; with what the model says under each."""

    def write(*names: str, folder: str = "theirs") -> tuple[Path, dict[str, torch.Tensor]]:
        made = lab.make("bert")
        torch.manual_seed(0)
        model = lab.task_class(lab.tiny_folder("bert"), "sequence_classification", 2)
        first, *rest = [(name, LoraConfig(task_type="SEQ_CLS", **CONFIGS[name])) for name in names]
        opened = get_peft_model(model, first[1], adapter_name=first[0])
        for name, config in rest:
            opened.add_adapter(name, config)
        expected = {}
        for seed, name in enumerate(names):
            opened.set_adapter(name)
            lab.shake((p for p in opened.parameters() if p.requires_grad), seed)
        for name in names:
            opened.set_adapter(name)
            expected[name] = lab.transformers_answer(opened, made.base, "sequence_classification")
        opened.save_pretrained(tmp_path / folder)
        return tmp_path / folder, expected

    return write


def test_every_adapter_of_a_folder_answers_as_in_peft(
    lab: Any, theirs: Callable[..., Any], task: str, tmp_path: Path
) -> None:
    folder, expected = theirs(*CONFIGS)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"ranks", "more", "dora"}
    runs = import_experts([folder], tmp_path / "runs", task=task)
    assert list(runs) == ["theirs", "dora", "more", "ranks"]
    for name, run in runs.items():
        said = expected["default" if name == "theirs" else name]
        torch.testing.assert_close(answer(lab, run), said, rtol=1e-5, atol=1e-5)
    ranks = load_run_model(runs["ranks"], device="cpu")
    adapters = ranks.model.expert(ranks.name).adapters
    assert adapters["encoder.layer.0.output.dense"].rank == 5
    assert adapters["encoder.layer.1.output.dense"].rank == 3


def test_folders_of_peft_and_of_weft_come_in_together(
    lab: Any, theirs: Callable[..., Any], task: str, tmp_path: Path
) -> None:
    folder, expected = theirs("ranks", folder="one")
    sub = folder / "ranks"
    made = lab.make("bert", "token_classification")
    save_expert(made.expert, made.card, made.base, tmp_path / "mine")
    arguments = ["import", str(sub), str(tmp_path / "mine"), "--out", str(tmp_path / "runs")]
    said = CliRunner().invoke(app, [*arguments, "--task", task])
    # One task for all is not that of weft's own card: its head is another's.
    assert said.exit_code == 2
    runs = import_experts([sub, tmp_path / "mine"], tmp_path / "runs", task=[task, None])
    torch.testing.assert_close(answer(lab, runs["ranks"]), expected["ranks"], rtol=1e-5, atol=1e-5)
    assert torch.equal(answer(lab, runs["mine"]), lab.answer(made.base, made.expert))
    own = load_run_model(runs["mine"], device="cpu").run.task
    assert own is not None
    # Where the run is in the end, not where it was drafted.
    assert own.name == str(tmp_path / "runs" / "mine" / "mine.yaml")
    assert Path(own.name).is_file()
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["mine", "ranks"]


def test_one_that_is_refused_keeps_all_of_them_out(
    theirs: Callable[..., Any], task: str, tmp_path: Path
) -> None:
    folder, _ = theirs("default", "ranks", "more", "dora")
    path = folder / "more" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 9}))
    said = CliRunner().invoke(
        app, ["import", str(folder), "--out", str(tmp_path / "runs"), "--task", task]
    )
    assert said.exit_code == 2
    assert "more" in said.stderr
    assert "has rank 4, but adapter_config.json says 9; none of the 4 was imported" in said.stderr
    assert not (tmp_path / "runs").exists()
    assert not list(tmp_path.glob("**/.*"))


def test_one_that_is_refused_while_it_is_written_takes_the_others_drafts_away(
    theirs: Callable[..., Any], task: str, tmp_path: Path
) -> None:
    folder, _ = theirs("default")
    odd = tmp_path / "odd"
    odd.mkdir()
    config = json.loads((folder / "adapter_config.json").read_text())
    # An X-LoRA is read while it is written, and this one holds nothing.
    (odd / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "XLORA"}))
    with pytest.raises(ValueError, match=r"odd.*; none of the 2 was imported"):
        import_experts([folder, odd], tmp_path / "runs", task=task)
    assert not (tmp_path / "runs").exists()


def test_what_was_there_before_stays(theirs: Callable[..., Any], task: str, tmp_path: Path) -> None:
    folder, _ = theirs("default", "ranks")
    runs = tmp_path / "runs"
    (runs / "ranks").mkdir(parents=True)
    (runs / "ranks" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match=r"ranks exists; choose another --out"):
        import_experts([folder], runs, task=task)
    assert [path.name for path in runs.iterdir()] == ["ranks"]
    (runs / "ranks" / "mine.txt").unlink()
    (runs / "ranks").rmdir()
    said = CliRunner().invoke(app, ["import", str(folder), "--out", str(runs), "--task", task])
    assert said.exit_code == 0, said.stderr
    assert said.stdout.splitlines() == [str(runs / "theirs"), str(runs / "ranks")]


def test_questions_that_only_the_user_can_answer_are_asked(
    theirs: Callable[..., Any], task: str, tmp_path: Path
) -> None:
    folder, _ = theirs("ranks", "more")
    runs = tmp_path / "runs"
    with pytest.raises(
        ValueError, match=r"holds several adapters \(more, ranks\), each in a folder"
    ):
        import_expert(folder, tmp_path / "run", task=task)
    with pytest.raises(ValueError, match="would both be called more; import them apart"):
        import_experts([folder, folder / "more"], runs, task=task)
    with pytest.raises(ValueError, match="3 tasks for 1 folders; give one for all"):
        import_experts([folder], runs, task=[task] * 3)
    with pytest.raises(ValueError, match=r"no weft.json that says its task.*none of the 2"):
        import_experts([folder], runs)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no adapter: neither adapter_config.json nor"):
        import_experts([tmp_path / "empty"], runs, task=task)
    with pytest.raises(ValueError, match="no folders given"):
        import_experts([], runs)
    said = CliRunner().invoke(app, ["import", "a", "b", "c"])
    assert said.exit_code == 2
    assert "give --out PARENT to import several" in said.stderr
    assert not runs.exists()
