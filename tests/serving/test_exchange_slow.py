"""Every answer of a server's process is the offline one of the version it names, while experts come and go under it."""

import asyncio
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENTS, REQUESTS = 64, 600


@pytest.mark.slow
def test_no_answer_is_lost_crossed_or_of_another_version(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The scripts import each other by name, as when they are called.
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from serving_exact import CHANGED, Exchange, Offline
    from serving_experts import COUNTS, make, rows_of
    from serving_servers import WEFT, running

    make(shared_data, tmp_path / "made")
    offline = Offline(tmp_path / "made", rows_of(shared_data, 4))
    with running(WEFT, tmp_path / "made", 1, "--residents", "6") as server:
        exchange = Exchange(server.url, offline)
        tally = asyncio.run(exchange.run(REQUESTS, CLIENTS, seed=0))
    assert tally.wrong == []
    assert tally.asked == REQUESTS == tally.equal + tally.refused
    assert {"auto", "weighed", *(f"mixed/{task}" for task in COUNTS)} <= set(tally.by)
    assert tally.puts > 2 * len(CHANGED), "nothing was replaced while clients asked"
