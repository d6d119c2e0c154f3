"""The state of a training run on disk, so that an interrupted run ends in the same bits.

A checkpoint holds trained parameters only, the optimizer's moments, the best weights so far, the methods' own state
and the random state of every process: safetensors and JSON, written as a whole or not at all.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from weft.atomic import atomic_folder, make_folder, write_tensors, write_text
from weft.guard import read_json
from weft.training.adamw import laid_out_as
from weft.training.learning import Learner

_TENSORS = "state.safetensors"
_VALUES = "state.json"


def save(
    folder: Path,
    learners: Sequence[Learner],
    random: Sequence[Tensor],
    *,
    step: int,
    keep: int,
    seconds: float,
    tokens: int,
) -> None:
    """Write the state after `step` steps and drop all but the `keep` newest checkpoints.

    Args:
        folder: The run's `checkpoints/`.
        learners: What is being trained.
        random: Torch's random state of every process.
        step: Optimizer steps done.
        keep: How many checkpoints to keep.
        seconds: Training time so far.
        tokens: Real tokens trained on so far.
    """
    tensors: dict[str, Tensor] = {f"random/{n}": state for n, state in enumerate(random)}
    values: dict[str, Any] = {"step": step, "seconds": seconds, "tokens": tokens, "learners": []}
    for number, learner in enumerate(learners):
        tensors |= {f"{number}/{key}": value for key, value in _tensors(learner).items()}
        values["learners"].append(_values(learner))
    make_folder(folder)
    with atomic_folder(folder / name_of(step)) as path:
        _write(path, tensors, values)
    for old in _all(folder)[:-keep]:
        shutil.rmtree(old)


def name_of(step: int) -> str:
    """What the checkpoint after so many steps is called."""
    return f"step-{step:08d}"


def load(
    folder: Path, learners: Sequence[Learner], process: int, device: torch.device
) -> tuple[int, float, int] | None:
    """Bring `learners` and torch's random state to the newest checkpoint.

    Args:
        folder: The run's `checkpoints/`.
        learners: What is being trained, freshly built.
        process: Whose random state to restore.
        device: Where training runs.

    Returns:
        Steps done, training time and tokens so far; None if there is no checkpoint yet.

    Raises:
        ValueError: If the checkpoint is damaged or belongs to other parameters.
    """
    found = _all(folder)
    if not found:
        return None
    newest = found[-1]
    try:
        tensors = load_file(newest / _TENSORS)
        values = read_json(newest / _VALUES)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{newest} is damaged ({error}); remove that folder to resume from the checkpoint before it"
        ) from error
    for number, (learner, saved) in enumerate(zip(learners, values["learners"], strict=True)):
        prefix = f"{number}/"
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        _restore(learner, own, saved, newest)
    _set_random_state(tensors[f"random/{process}"], device)
    return int(values["step"]), float(values["seconds"]), int(values["tokens"])


def remove(folder: Path) -> None:
    """Drop every checkpoint: the run is complete."""
    if folder.is_dir():
        shutil.rmtree(folder)


def random_state(device: torch.device) -> Tensor:
    """Torch's random state on this process, the accelerator's behind the CPU's."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def _set_random_state(state: Tensor, device: torch.device) -> None:
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[size:], device)


def _all(folder: Path) -> list[Path]:
    return (
        sorted(path for path in folder.glob("step-*") if path.is_dir()) if folder.is_dir() else []
    )


def _write(path: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    write_tensors(path / _TENSORS, {k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    write_text(path / _VALUES, json.dumps(values, indent=1, sort_keys=True) + "\n")


def _tensors(learner: Learner) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {f"weight/{name}": p for name, p in learner.parameters.items()}
    names = {id(p): name for name, p in learner.parameters.items()}
    for parameter, state in learner.optimizer.state.items():
        found |= {f"moment/{names[id(parameter)]}/{key}": value for key, value in state.items()}
    found |= {f"best/{name}": value for name, value in learner.best.items()}
    found |= {f"form/{name}": value for name, value in learner.forms().items()}
    for name, hook in learner.hooks().items():
        found |= {f"hook/{name}/{key}": value for key, value in hook.state_dict().items()}
    return found


def _values(learner: Learner) -> dict[str, Any]:
    stopper = learner.stopper
    return {
        "is_over": learner.is_over,
        "done": learner.done,
        "best": stopper.best,
        "best_step": stopper.best_step,
        "misses": stopper.misses,
    }


def _own(value: Tensor) -> Tensor:
    """A copy in memory of its own: products of what lies unaligned in a file's may differ in their last bits."""
    return value.clone()


def _restore(
    learner: Learner, tensors: dict[str, Tensor], saved: dict[str, Any], path: Path
) -> None:
    def under(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    learner.take_forms(under("form/"))
    weights = under("weight/")
    if set(weights) != set(learner.parameters):
        other = sorted(set(weights) ^ set(learner.parameters))
        raise ValueError(
            f"{path} belongs to another training: it differs in {', '.join(other[:5])}"
        )
    with torch.no_grad():
        for name, value in weights.items():
            learner.parameters[name].copy_(value)
    for name, parameter in learner.parameters.items():
        state = under(f"moment/{name}/")
        if state:
            learner.optimizer.state[parameter] = {
                key: _own(laid_out_as(parameter.detach(), value)) for key, value in state.items()
            }
    learner.best = under("best/")
    for name, hook in learner.hooks().items():
        hook.load_state_dict({k: _own(v) for k, v in under(f"hook/{name}/").items()})
    learner.is_over = saved["is_over"]
    learner.done = saved["done"]
    learner.stopper.best = saved["best"]
    learner.stopper.best_step = saved["best_step"]
    learner.stopper.misses = saved["misses"]
