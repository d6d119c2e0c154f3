"""Gates: how much each expert (or rank) counts for a token, what is done with that, and what it costs.

    logits ─ score ─> scores ─ select ─> selected ─ normalise ─> gates      (gate.py)
    z = x A_catᵀ ─ mid ─> z B_catᵀ                                          (mid.py, apply.py)
    scores, gates, selected, mask ─> GateTrace ─> losses                    (trace.py, losses.py)

Nothing here knows of any paper: a mixture says in these terms what it is.
"""
