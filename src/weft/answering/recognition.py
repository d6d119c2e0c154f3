"""What a recogniser sees of a sequence, and how it is fitted: once, after the gates, by penalised likelihood."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weft.answering.inference import autocast, padding_id, tokens_for
from weft.methods.gates.reading import summary
from weft.model.heads import kind_of
from weft.model.mixed import early_state
from weft.model.model import Model
from weft.model.recogniser import STATES, Recogniser
from weft.model.snapshot import Snapshot
from weft.scoped import tell
from weft.tasks.contract import Record
from weft.tasks.scoring import Score, share

RECOGNITION = "recognition"
"""Name of the score: the share of rows whose task was recognised."""
MOST_ROWS = 2000
"""Training rows of a task that the classifier is fitted to."""
PENALTY = 1e-3
"""Of the squared weights on features of unit variance, beside the mean loss."""
STEPS = 200


def sequences_of(records: Sequence[Record]) -> tuple[list[list[int]], list[int]]:
    """Every sequence of some rows, and for each the number of its row."""
    pairs = [(ids, at) for at, record in enumerate(records) for ids in record["input_ids"]]
    return [ids for ids, _ in pairs], [at for _, at in pairs]


def features(
    model: Model | Snapshot,
    sequences: Sequence[Sequence[int]],
    *,
    device: torch.device,
    precision: str = "fp32",
) -> Tensor:
    """What the bare base's first layer makes of each sequence: (sequences, 2 hidden), single precision.

    Its mean over tokens and the token that has seen it whole (`weft.methods.gates.reading.summary`): no expert has
    spoken yet, so it is the same for every mixture, and costs a layer.

    Args:
        model: Whose base reads.
        sequences: Token ids.
        device: Where the model is.
        precision: Arithmetic of the forward pass.
    """
    order = sorted(range(len(sequences)), key=lambda at: -len(sequences[at]))
    typed = "token_type_ids" in model.base.tokenizer.model_input_names
    causal = kind_of("causal_lm").fits(model.base.config)
    trunk = model.snapshot.trunk
    found = torch.zeros(len(sequences), STATES * model.base.config.hidden_size)
    with torch.inference_mode(), autocast(device, precision):
        while order:
            tell("sequences read to recognise tasks", len(sequences) - len(order), len(sequences))
            width = len(sequences[order[0]])
            count = max(1, tokens_for(torch.device(device)) // width)
            chosen, order = order[:count], order[count:]
            ids = torch.full((len(chosen), width), padding_id(model.base))
            mask = torch.zeros_like(ids)
            for row, at in enumerate(chosen):
                own = sequences[at]
                ids[row, : len(own)] = torch.tensor(own)
                mask[row, : len(own)] = 1
            inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
            if typed:
                inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
            state = early_state(trunk, inputs).float()
            found[chosen] = summary(state, inputs["attention_mask"], causal=causal).cpu()
    return found


def fit(tasks: Sequence[str], found: Tensor, labels: Tensor, weights: Tensor) -> Recogniser:
    """The classifier of largest penalised likelihood; no draw is involved.

    Args:
        tasks: Names of the classes.
        found: (sequences, hidden).
        labels: (sequences,) class of each.
        weights: (sequences,) how much each counts.
    """
    x = found.double()
    mean, scale = x.mean(0), x.std(0, unbiased=False).clamp_min(1e-6)
    x = (x - mean) / scale
    share = weights.double() / weights.sum()
    weight = torch.zeros(len(tasks), x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(tasks), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-7
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = torch.nn.functional.cross_entropy(x @ weight.T + bias, labels, reduction="none")
        loss = (share * losses).sum() + PENALTY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        own = weight / scale
        return Recogniser(tuple(tasks), own.float(), (bias - own @ mean).float())


def fit_rows(
    model: Model | Snapshot,
    records: Mapping[str, Sequence[Record]],
    *,
    device: torch.device,
    precision: str,
) -> Recogniser:
    """A classifier of the rows of several tasks; every row counts the same, however many sequences it has.

    Args:
        model: Whose base reads.
        records: Training rows by task; the first `MOST_ROWS` of each are used.
        device: Where the model is.
        precision: Arithmetic of the forward pass.
    """
    parts, labels, weights = [], [], []
    for label, rows in enumerate(records.values()):
        chosen = rows[:MOST_ROWS]
        sequences, owners = sequences_of(chosen)
        parts.append(features(model, sequences, device=device, precision=precision))
        counts = torch.bincount(torch.tensor(owners), minlength=len(chosen))
        labels += [label] * len(sequences)
        weights.append(1 / counts[owners] / len(chosen))
    return fit(list(records), torch.cat(parts), torch.tensor(labels), torch.cat(weights))


def recognition(
    model: Model | Snapshot,
    recogniser: Recogniser,
    task: str,
    records: Sequence[Record],
    *,
    device: torch.device,
    precision: str,
) -> Score:
    """The share of a task's rows that are taken for that task's.

    Args:
        model: Whose base reads.
        recogniser: Its own.
        task: Whose rows they are.
        records: The rows.
        device: Where the model is.
        precision: Arithmetic of the forward pass.
    """
    sequences, owners = sequences_of(records)
    said = recogniser(features(model, sequences, device=device, precision=precision), owners)
    return share(sum(one.task == task for one in said), len(said))
