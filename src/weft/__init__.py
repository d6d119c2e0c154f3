"""weft: one frozen Transformer, many low-rank experts.

The public verbs, each imported when it is first asked for: importing weft alone imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft.comparison import compare
    from weft.evaluation import evaluate
    from weft.exporting import export, import_expert
    from weft.loading import load_run_model as load
    from weft.prediction import predict
    from weft.pruning import prune
    from weft.pruning.recovery import recover
    from weft.reproduction.reproducing import reproduce
    from weft.training import train

    __version__: str

__all__ = [
    "__version__",
    "compare",
    "evaluate",
    "export",
    "import_expert",
    "load",
    "predict",
    "prune",
    "recover",
    "reproduce",
    "train",
]

_PLACES = {
    "compare": "weft.comparison:compare",
    "evaluate": "weft.evaluation:evaluate",
    "export": "weft.exporting:export",
    "import_expert": "weft.exporting:import_expert",
    "load": "weft.loading:load_run_model",
    "predict": "weft.prediction:predict",
    "prune": "weft.pruning:prune",
    "recover": "weft.pruning.recovery:recover",
    "reproduce": "weft.reproduction.reproducing:reproduce",
    "train": "weft.training:train",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("weft")
    if name not in _PLACES:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    module, _, function = _PLACES[name].partition(":")
    return getattr(import_module(module), function)


def __dir__() -> list[str]:
    return __all__
