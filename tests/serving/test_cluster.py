"""What replicas need no cluster for: how many there are, how changes are numbered, what is said without Ray."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from weft.cli import app
from weft.serving.cluster.changes import Ledger
from weft.serving.cluster.scale import scale_of
from weft.serving.errors import Overloaded, ReplicaLost
from weft.serving.http.refusals import RateLimited
from weft.serving.load import Load, summed

NAMES = st.sampled_from(["a", "b", "c"])
FOLDERS = st.none() | st.sampled_from([Path("/one"), Path("/two")])


@pytest.mark.parametrize(("said", "least", "most"), [("2", 2, 2), ("1:4", 1, 4), ("3:3", 3, 3)])
def test_replicas_are_a_number_or_a_span(said: str, least: int, most: int) -> None:
    found = scale_of(said)
    assert (found.least, found.most) == (least, most)


@pytest.mark.parametrize("said", ["0", "-1", "4:1", "1:", ":2", "two", "", "1:2:3", "0:2", "1.5"])
def test_what_is_no_number_of_replicas_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="expected a number such as 2, or MIN:MAX such as 1:4"):
        scale_of(said)


@given(st.lists(st.tuples(NAMES, FOLDERS, st.booleans())), st.lists(st.integers(0, 30), max_size=5))
def test_whoever_follows_all_changes_has_what_was_written_down(
    changes: list[tuple[str, Path | None, bool]], looks: list[int]
) -> None:
    ledger, wanted = Ledger(), {}
    followed, revision = {}, 0
    for at, (name, folder, fails) in enumerate(changes):
        number = ledger.number()
        if not fails:
            ledger.note(name, folder, number)
            wanted[name] = folder
        # A replica that is asked now and then, and told what it lacks.
        if at in looks:
            found = ledger.since(revision)
            assert (found.after, found.revision) == (revision, ledger.revision)
            followed |= found.folders
            revision = found.revision
    followed |= ledger.since(revision).folders
    assert followed == wanted
    assert ledger.since(0).folders == wanted
    assert not ledger.since(ledger.revision).folders


@pytest.mark.parametrize("kind", [Overloaded, RateLimited])
def test_a_refusal_comes_from_another_process_whole(kind: type[Overloaded]) -> None:
    found = pickle.loads(pickle.dumps(kind("too much", 2.5)))
    assert (type(found), str(found), found.retry_after) == (kind, "too much", 2.5)
    assert str(pickle.loads(pickle.dumps(ReplicaLost("gone")))) == "gone"


def test_loads_add_up() -> None:
    one = Load({"a": 3, "b": 1}, 2, 1, 4, 100, 10, 1000, 50.0, 0.5, False)
    other = Load({"a": 2}, 1, 0, 1, 50, 5, 500, 25.0, 0.1, False)
    found = summed([one, other], rows=7, draining=True, retries=3)
    assert found.waiting == {"a": 5, "b": 1}
    assert (found.rows, found.writing, found.residents, found.bytes) == (7, 1, 5, 150)
    assert (found.batches, found.tokens, found.tokens_per_second) == (15, 1500, 75.0)
    assert (found.busy, found.draining) == (pytest.approx(0.3), True)
    assert (found.replicas, found.retries) == (2, 3)
    assert summed([], rows=0, draining=False, retries=0).replicas == 0


def test_replicas_without_ray_are_refused() -> None:
    done = CliRunner().invoke(app, ["serve", "a", "--replicas", "2"])
    assert done.exit_code == 2
    assert "give --ray as well" in done.stderr


@pytest.mark.parametrize("missing", ["ray", "ray.serve"])
def test_what_is_not_installed_is_named(missing: str, tmp_path: Path) -> None:
    # What stands there as None is found nowhere, as where it is not installed.
    typed = ["serve", "--experts", str(tmp_path), "--ray"]
    code = f"import sys; sys.modules[{missing!r}] = None; from weft.cli import app; app({typed})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "weft: weft serve --ray needs Ray Serve" in done.stderr
    assert "pip install 'weft[serve,ray]'" in done.stderr
