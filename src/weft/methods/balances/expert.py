"""Balance by the own expert: each task's loss as a multiple of what its own expert leaves.

    c_t = 1 / L_t(own expert)

A mixture is to keep what its experts know, so a task's loss counts by how far it is from its own expert's: 1 where the
mixture answers as the expert does. L_t(own expert) is measured once, without dropout, over the first training rows of a
task (`training/preparation`). An expert has seen those rows: one that knows them by heart leaves next to nothing,
and its task then counts for nearly everything. That a multi-task model is measured against single-task ones is common
(Maninis et al. 2019, arXiv:1904.08918); that gates are trained on such a ratio is ours.
"""

from weft.methods.balances import contract


class ByExpert(contract.Balance):
    """Losses that are all 1 where the mixture is as good as the own expert."""

    measures = "expert"

    def weight(self, task: str) -> float:
        return 1 / self.measured[task]
