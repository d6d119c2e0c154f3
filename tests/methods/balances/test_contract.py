"""Every balance: factors that are numbers greater than 0, made of what it wanted to have measured."""

import pytest
import torch

from weft.methods.balances import balances

MEASURED = {"tags": 0.1, "choices": 1.4}
EACH = pytest.mark.parametrize("name", balances.names())


@EACH
def test_every_task_counts_something(name: str) -> None:
    balance = balances.load(name)(MEASURED)
    for task in MEASURED:
        assert balance.weight(task) > 0


@EACH
def test_what_is_measured_is_what_counts_as_one(name: str) -> None:
    kind = balances.load(name)
    if kind.measures is None:
        assert [kind().weight(task) for task in MEASURED] == [1.0, 1.0]
        return
    balance = kind(MEASURED)
    for task, loss in MEASURED.items():
        assert balance.weight(task) * loss == pytest.approx(1.0, rel=1e-15)


@EACH
def test_it_goes_on_where_it_was(name: str) -> None:
    kind = balances.load(name)
    steps = [{"tags": torch.tensor(0.3 / at), "choices": torch.tensor(2.0)} for at in range(1, 6)]
    whole, first, rest = kind(MEASURED), kind(MEASURED), kind(MEASURED)
    for losses in steps:
        whole.observe(losses)
    for losses in steps[:2]:
        first.observe(losses)
    rest.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
    for losses in steps[2:]:
        rest.observe(losses)
    for task in MEASURED:
        assert rest.weight(task) == whole.weight(task)


def test_an_unknown_balance_names_the_nearest() -> None:
    with pytest.raises(KeyError, match="Did you mean 'start'"):
        balances.load("strat")
