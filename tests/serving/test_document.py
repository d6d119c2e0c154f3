"""The OpenAPI document is true of the server: what fits it is answered or refused as it says, the rest is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.served import KEYS, MANAGE, app_of, listening
from weft.serving.http.settings import ServerSettings

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


def violations(url: str, examples: int, folder: Path, *options: str) -> str:
    """What schemathesis has to say of a server, if it found anything wrong."""
    command = [
        *(str(SCHEMATHESIS), "run", f"{url}/openapi.json", "--checks", "all", "--no-color"),
        *("--seed", "7", "--max-examples", str(examples), "--generation-database", "none"),
        *("--suppress-health-check", "all", *options),
    ]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=500
    )
    return "" if done.returncode == 0 else done.stdout[-6000:] + done.stderr[-2000:]


def test_nothing_the_document_allows_or_forbids_breaks_the_server(
    server: str, tmp_path: Path
) -> None:
    assert violations(server, 3, tmp_path, "--phases", "fuzzing") == ""


@pytest.mark.slow
def test_the_document_is_kept_with_keys_and_without(shelf_folder: Path, tmp_path: Path) -> None:
    with listening(app_of(shelf_folder)) as url:
        assert violations(url, 100, tmp_path) == ""
    guarded = app_of(shelf_folder, keys=KEYS, settings=ServerSettings(hosts=()))
    with listening(guarded) as url:
        assert violations(url, 50, tmp_path, "-H", f"Authorization: Bearer {MANAGE}") == ""
