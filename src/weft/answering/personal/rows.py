"""Rows of many users, each answered by its user's expert, in batches of many users."""

from collections.abc import Sequence

from weft.answering.inference import Progress, outputs, padding_id, sampled
from weft.data.users import by_user
from weft.model.batching import Item
from weft.storage.loading import LoadedRun
from weft.storage.personal.experts import called, members_of, read_expert
from weft.storage.personal.users import Users
from weft.tasks.contract import Example, Prediction, Record, Task

AT_ONCE = 64
"""Users whose experts are in memory together."""


def predictions_by_user(
    loaded: LoadedRun,
    users: Users,
    task: Task,
    examples: Sequence[Example],
    records: Sequence[Record],
    *,
    tokens_per_batch: int | None = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """What the experts of the rows' users say of each row, in order; whoever has none gets the population's answer.

    Args:
        loaded: The population's expert on its base.
        users: Of the same run.
        task: Decodes.
        examples: Checked rows, with `user`.
        records: Their records.
        tokens_per_batch: Padded tokens in one forward call; None takes what is fastest on the device.
        progress: Told how far it is.
    """
    drawn, population = sampled(task, records), loaded.model.expert(loaded.name)
    found: dict[int, Prediction] = {}
    everybody = list(by_user(examples).items())
    for start in range(0, len(everybody), AT_ONCE):
        names = everybody[start : start + AT_ONCE]
        known = [user for user, _ in names if user in users]
        own = [read_expert(users, user, population).to(loaded.device) for user in known]
        loaded.model.change(add=own)
        try:
            places = [(at, user) for user, rows in names for at in rows]
            items = [_item(loaded, users, user, drawn[at]) for at, user in places]
            raw = outputs(
                loaded.model.snapshot,
                items,
                pad_id=padding_id(loaded.model.base),
                device=loaded.device,
                precision=loaded.precision,
                tokens_per_batch=tokens_per_batch,
            )
        finally:
            loaded.model.change(remove=[called(loaded.name, user) for user in known])
        for (at, _), output in zip(places, raw, strict=True):
            found[at] = task.decode(examples[at], records[at], output)
        if progress is not None:
            progress(len(found), len(examples))
    return [found[at] for at in range(len(examples))]


def _item(loaded: LoadedRun, users: Users, user: str, record: Record) -> Item:
    if user not in users:
        return Item(loaded.name, loaded.card.head, loaded.members, record)
    members = members_of(loaded.name, user, shared=users.index.shared)
    return Item(called(loaded.name, user), loaded.card.head, members, record)
