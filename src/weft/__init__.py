"""weft: one frozen Transformer, many low-rank experts.

The public verbs, each imported when it is first asked for: importing weft alone imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft.analysis.analyze import analyze
    from weft.answering.evaluation import evaluate
    from weft.answering.opening import load, predict
    from weft.answering.predictor import Predictor
    from weft.catalogue.including import including
    from weft.client.asynchronous import AsyncClient
    from weft.client.client import Client
    from weft.client.wire import ServerError
    from weft.comparison.comparing import compare
    from weft.generating.generate import generate
    from weft.generating.learn import learn
    from weft.judging.judge import judge
    from weft.merging.arithmetic import arithmetic
    from weft.merging.merge import merge
    from weft.model.attached import adapter_state, attach, detach, load_adapter_state
    from weft.prompting.prompt import prompt
    from weft.pruning.prune import prune
    from weft.pruning.recovery import recover
    from weft.publishing.hub import push
    from weft.reproduction.reproducing import reproduce
    from weft.storage.exporting import export
    from weft.storage.gathering import import_experts
    from weft.storage.importing import import_expert
    from weft.training.callbacks import STOP
    from weft.training.loop import train
    from weft.vocabulary.retokenise import retokenise

    __version__: str

__all__ = [
    "STOP",
    "AsyncClient",
    "Client",
    "Predictor",
    "ServerError",
    "__version__",
    "adapter_state",
    "analyze",
    "arithmetic",
    "attach",
    "compare",
    "detach",
    "evaluate",
    "export",
    "generate",
    "import_expert",
    "import_experts",
    "including",
    "judge",
    "learn",
    "load",
    "load_adapter_state",
    "merge",
    "predict",
    "prompt",
    "prune",
    "push",
    "recover",
    "reproduce",
    "retokenise",
    "train",
]

_PLACES = {
    "STOP": "weft.training.callbacks:STOP",
    "AsyncClient": "weft.client.asynchronous:AsyncClient",
    "Client": "weft.client.client:Client",
    "ServerError": "weft.client.wire:ServerError",
    "Predictor": "weft.answering.predictor:Predictor",
    "adapter_state": "weft.model.attached:adapter_state",
    "analyze": "weft.analysis.analyze:analyze",
    "arithmetic": "weft.merging.arithmetic:arithmetic",
    "attach": "weft.model.attached:attach",
    "compare": "weft.comparison.comparing:compare",
    "detach": "weft.model.attached:detach",
    "evaluate": "weft.answering.evaluation:evaluate",
    "export": "weft.storage.exporting:export",
    "generate": "weft.generating.generate:generate",
    "import_expert": "weft.storage.importing:import_expert",
    "import_experts": "weft.storage.gathering:import_experts",
    "including": "weft.catalogue.including:including",
    "judge": "weft.judging.judge:judge",
    "learn": "weft.generating.learn:learn",
    "load": "weft.answering.opening:load",
    "load_adapter_state": "weft.model.attached:load_adapter_state",
    "merge": "weft.merging.merge:merge",
    "predict": "weft.answering.opening:predict",
    "prompt": "weft.prompting.prompt:prompt",
    "prune": "weft.pruning.prune:prune",
    "push": "weft.publishing.hub:push",
    "recover": "weft.pruning.recovery:recover",
    "reproduce": "weft.reproduction.reproducing:reproduce",
    "retokenise": "weft.vocabulary.retokenise:retokenise",
    "train": "weft.training.loop:train",
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
