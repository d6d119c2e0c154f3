"""No balance: the tasks' mean losses are added up as they are.

    c_t = 1

What every published mixture does that is trained on several tasks at once (X-LoRA: Buehler and Buehler 2024,
arXiv:2402.07148, section 2.1; MeteoRA: Xu et al. 2024, arXiv:2405.13053). A loss by token and a loss by row differ by
an order of magnitude, and the gates follow the larger one.
"""

from weft.methods.balances import contract


class Unbalanced(contract.Balance):
    """As published."""
