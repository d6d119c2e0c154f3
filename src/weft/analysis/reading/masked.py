"""Masked words of a corpus, and what a base's own masked language model says of them."""

import torch
from torch import Tensor

from weft.analysis.study import Study
from weft.analysis.texts import Corpus, NotAtHandError
from weft.model.head import Head
from weft.model.heads import kind_of

SHARE = 0.15
"""Of a sequence's units that are hidden, one at least: Devlin et al. 2018, section 3.1."""
_AT_ONCE = 512
"""Places whose vocabulary is looked at together."""


def masked(corpus: Corpus, study: Study) -> tuple[Corpus, Tensor]:
    """A corpus whose units are the hidden tokens, and what stood there, (units,).

    Units are chosen by the study's seed; all tokens of a chosen one are replaced by the mask, always, since no word is
    trained on here.

    Raises:
        NotAtHandError: If the base has no mask.
    """
    mask = study.base.tokenizer.mask_token_id
    if not isinstance(mask, int):
        raise NotAtHandError(f"the tokenizer of {study.base.name} has no mask")
    generator = study.generator(f"masks of {corpus.name}")
    records, units, hidden, picked = [], [], [], []
    start = 0
    for record, own in zip(corpus.records, corpus.units, strict=True):
        count = max(1, round(SHARE * len(own)))
        chosen = torch.randperm(len(own), generator=generator)[:count].sort().values.tolist()
        places = [place for at in chosen for place in own[at]]
        picked += [start + at for at in chosen for _ in own[at]]
        ids = list(record["input_ids"][0])
        hidden += [ids[place] for place in places]
        for place in places:
            ids[place] = mask
        records.append({**record, "input_ids": [ids]})
        units.append(tuple((place,) for place in places))
        start += len(own)
    tags = {kind: tuple(own[at] for at in picked) for kind, own in corpus.tags.items()}
    name = f"masked words of {corpus.name}"
    return Corpus(name, tuple(records), tuple(units), tags), torch.tensor(hidden)


def own_head(study: Study) -> Head:
    """The base's masked language model, frozen as its checkpoint has it.

    Raises:
        NotAtHandError: If its architecture or its checkpoint has none; nothing is drawn in its place.
    """
    name = study.base.name
    if not kind_of("masked_lm").fits(study.base.config):
        raise NotAtHandError(f"{name} is no masked language model")
    head = Head("masked_lm", study.base, 0, seed=0)
    lacking = head.trained_names()
    if lacking:
        raise NotAtHandError(
            f"the checkpoint of {name} has no head for masked words ({', '.join(lacking[:3])} are not in it), so what "
            "it knew of them cannot be asked"
        )
    return head


@torch.inference_mode()
def surprise(head: Head, states: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The negative log-likelihood of what stood at each place in nats, and whether it is the likeliest, (places,) each.

    Args:
        head: A masked language model's, in the states' precision or single.
        states: Last states at the masks, (places, hidden).
        hidden: The tokens that stood there.
    """
    like = next(head.parameters())
    nll, hit = [], []
    for at in range(0, len(states), _AT_ONCE):
        own, ids = states[None, at : at + _AT_ONCE].to(like), hidden[at : at + _AT_ONCE]
        mask = torch.ones(own.shape[:2], dtype=torch.long, device=own.device)
        logits = head(own, mask, (1,))[0].double().cpu()
        nll.append(-logits.log_softmax(-1).gather(1, ids[:, None])[:, 0])
        hit.append((logits.argmax(-1) == ids).double())
    return torch.cat(nll), torch.cat(hit)
