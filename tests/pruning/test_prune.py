"""What pruning leaves of a base."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.pruning.places import FFN, NEURONS, neurons, places_of
from weft.base.loading import load_base
from weft.lowrank.attach import frozen_linear
from weft.lowrank.roles import ALL_LINEAR
from weft.lowrank.roles import resolve as maps_of
from weft.pruning.prune import prune
from weft.pruning.record import read_pruning
from weft.storage.tensors import linear_shapes

Folder = Callable[[str], Path]
WIDTHS = {"distilbert": "hidden_dim", "gpt2": "n_inner"}


def test_a_structured_copy_is_the_base_without_some_rows_and_columns(
    model_type: str, tiny_folder: Folder, half: Folder
) -> None:
    full, small = (load_base(str(one(model_type))) for one in (tiny_folder, half))
    places = places_of(model_type, half(model_type))
    before, after = full.trunk.state_dict(), small.trunk.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        module, _, last = name.rpartition(".")
        rows, columns = places.get(module, (None, None))
        kept = value
        if rows is not None:
            kept = value[rows][:, columns] if last == "weight" else value[rows]
        assert torch.equal(after[name], kept), name
    assert len(places) == 2 * (len(FFN[model_type][0]) + 1 + 4 * (model_type == "llama"))
    assert getattr(small.config, WIDTHS.get(model_type, "intermediate_size")) == NEURONS // 2
    assert small.config.hidden_size == 32


def test_a_draw_depends_on_its_seed_alone(
    tiny_folder: Folder, half: Folder, tmp_path: Path
) -> None:
    kept = []
    for seed in (7, 8):
        out = tmp_path / str(seed)
        base = str(tiny_folder("bert"))
        prune(base, out, kind="structured", ratio=0.5, importance="random", seed=seed)
        kept.append(read_pruning(out).kept)
    assert kept[0] == read_pruning(half("bert")).kept != kept[1]
    assert kept[0]["neurons"][0] != kept[0]["neurons"][1]


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "gpt2", "llama"])
def test_the_largest_neurons_stay(model_type: str, tiny_folder: Folder, tmp_path: Path) -> None:
    trunk = load_base(str(tiny_folder(model_type))).trunk
    prune(str(tiny_folder(model_type)), tmp_path / "p", kind="structured", ratio=0.75)
    for layer in (0, 1):
        scores = []
        for unit in range(NEURONS):
            own = neurons(model_type, layer, [unit])
            scores.append(
                sum(
                    frozen_linear(trunk, name).weight[rows][:, columns].square().sum().item()
                    for name, (rows, columns) in own.items()
                )
            )
        largest = sorted(range(NEURONS), key=lambda unit: -scores[unit])[:16]
        assert read_pruning(tmp_path / "p").kept["neurons"][layer] == sorted(largest)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_semi_structured_keeps_the_largest_n_of_every_m(
    model_type: str, pattern: str | None, tiny_folder: Folder, tmp_path: Path
) -> None:
    full = load_base(str(tiny_folder(model_type)))
    prune(str(tiny_folder(model_type)), tmp_path / "p", kind="semi", pattern=pattern)
    after = load_base(str(tmp_path / "p")).trunk.state_dict()
    count, group = (4, 8) if pattern is None else (2, 4)
    masked = maps_of(full.trunk, ALL_LINEAR)
    assert read_pruning(tmp_path / "p").masked == masked
    for name, value in full.trunk.state_dict().items():
        if name.removesuffix(".weight") not in masked:
            assert torch.equal(after[name], value), name
            continue
        found, whole = after[name].reshape(-1, group), value.reshape(-1, group)
        stays = found != 0
        assert (stays.sum(1) == count).all()
        assert torch.equal(found[stays], whole[stays])
        least = whole.abs().masked_fill(~stays, torch.inf).min(1).values
        assert (whole.abs().masked_fill(stays, 0).max(1).values <= least).all()


def weights(trunk: nn.Module) -> dict[str, Tensor]:
    return {name: frozen_linear(trunk, name).weight for name in linear_shapes(trunk)}


@pytest.mark.parametrize("importance", ["random", "magnitude"])
def test_unstructured_prunes_every_row_of_the_chosen_layers_alike(
    importance: Any, tiny_folder: Folder, tmp_path: Path
) -> None:
    full = load_base(str(tiny_folder("llama")))
    base = str(tiny_folder("llama"))
    options: dict[str, Any] = {"ratio": 0.55, "importance": importance, "layers": [1]}
    prune(base, tmp_path / "p", kind="unstructured", **options)
    after = weights(load_base(str(tmp_path / "p")).trunk)
    for name, value in weights(full.trunk).items():
        if not name.startswith("layers.1."):
            assert torch.equal(after[name], value)
            continue
        stays = after[name] != 0
        assert (stays.sum(1) == value.shape[1] - round(0.55 * value.shape[1])).all()
        assert torch.equal(after[name][stays], value[stays])
        least = value.abs().masked_fill(~stays, torch.inf).min(1).values
        by_size = value.abs().masked_fill(stays, 0).max(1).values <= least
        assert by_size.all() == (importance == "magnitude")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "structured"}, "structured pruning takes a ratio and no pattern"),
        (
            {"kind": "semi", "ratio": 0.5},
            "semi pruning takes a pattern and no ratio, got ratio 0.5",
        ),
        ({"kind": "unstructured", "ratio": 0.5, "pattern": "2:4"}, "takes a ratio and no pattern"),
        ({"kind": "structured", "ratio": 0.5, "layers": [0]}, "one width; leave layers away"),
        ({"kind": "unstructured", "ratio": 1.0}, "ratio: .*less than 1"),
        (
            {"kind": "unstructured", "ratio": 0.5, "layers": [2]},
            "expected some of the layers 0 to 1",
        ),
        ({"kind": "semi", "pattern": "5:4"}, "cannot keep 5 of 4 weights"),
        ({"kind": "semi", "pattern": "half"}, "pattern: .*got 'half'"),
        ({"kind": "semi", "pattern": "2:7"}, "takes 32 values, which 7 does not divide"),
        ({"kind": "randomly", "ratio": 0.5}, "kind: .*got 'randomly'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    settings: Any, message: str, tiny_folder: Folder, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        prune(str(tiny_folder("bert")), tmp_path / "p", **settings)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tiny_folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists; choose another folder"):
        prune(str(tiny_folder("bert")), tmp_path, kind="semi")
