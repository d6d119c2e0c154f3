"""Every answer of a server's process is the offline one of the version it names, while experts come and go under it."""

import asyncio
from importlib import import_module
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
    exact, experts, servers = map(
        import_module, ("serving_exact", "serving_experts", "serving_servers")
    )
    experts.make(shared_data, tmp_path / "made")
    offline = exact.Offline(tmp_path / "made", experts.rows_of(shared_data, 4))
    with servers.running(servers.WEFT, tmp_path / "made", 1, "--residents", "6") as server:
        exchange = exact.Exchange(server.url, offline)
        tally = asyncio.run(exchange.run(REQUESTS, CLIENTS, seed=0))
    assert tally.wrong == []
    assert tally.asked == REQUESTS == tally.equal + tally.refused
    assert {"auto", "weighed", *(f"mixed/{task}" for task in experts.COUNTS)} <= set(tally.by)
    assert tally.puts > 2 * len(exact.CHANGED), "nothing was replaced while clients asked"
