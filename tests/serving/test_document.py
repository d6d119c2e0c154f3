"""The OpenAPI document is true of the server: what fits it is answered or refused as it says, the rest is refused."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.serving.conftest import READERS
from tests.serving.served import KEYS, MANAGE, app_of, bearer, listening
from weft.serving.http.settings import ServerSettings

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
SETTINGS = Path(__file__).with_name("schemathesis.toml")
BODIES = ("PredictRequest", "GatesRequest", "EmbeddingRequest", "CompletionRequest", "ChatRequest")


def violations(url: str, document: str | Path, examples: int, folder: Path, *options: str) -> str:
    """What schemathesis has to say of a server, if it found anything wrong."""
    command = [
        *(str(SCHEMATHESIS), "--config-file", str(SETTINGS), "run", str(document), "--url", url),
        *("--checks", "all", "--no-color", "--seed", "7", "--max-examples", str(examples)),
        *("--generation-database", "none", "--suppress-health-check", "all", *options),
    ]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=900
    )
    return "" if done.returncode == 0 else done.stdout[-6000:] + done.stderr[-2000:]


def kept(said: str) -> None:
    """All that was found is shown, whole."""
    if said:
        pytest.fail(said)


def knowing(url: str, names: Sequence[str], folder: Path, key: str | None = None) -> Path:
    """The document of a server as who knows its experts and sets no deadline reads it: requests get to them.

    A deadline that has passed is a 504 by right, which is what no request here is to be answered with.
    """
    headers = bearer(key) if key else {}
    document = httpx.get(f"{url}/openapi.json", headers=headers).json()
    for body in BODIES:
        fields = document["components"]["schemas"][body]["properties"]
        fields["expert" if "expert" in fields else "model"] = {"enum": list(names)}
    for methods in document["paths"].values():
        for operation in methods.values():
            if "parameters" in operation:
                operation["parameters"] = [
                    own for own in operation["parameters"] if own["name"] != "weft-deadline"
                ]
    path = folder / "document.json"
    path.write_text(json.dumps(document))
    return path


def test_nothing_the_document_allows_or_forbids_breaks_the_server(
    shelf_folder: Path, tmp_path: Path
) -> None:
    # Experts are taken out on the way: a server of its own.
    with listening(app_of(shelf_folder)) as url:
        document = f"{url}/openapi.json"
        kept(violations(url, document, 2, tmp_path, "--phases", "examples,fuzzing"))


@pytest.mark.slow
def test_the_document_is_kept_by_who_reads_and_who_writes(
    shelf_folder: Path, writers_folder: Path, tmp_path: Path
) -> None:
    with listening(app_of(shelf_folder)) as url:
        kept(violations(url, f"{url}/openapi.json", 100, tmp_path))
        document = knowing(url, [*READERS, "base"], tmp_path)
        kept(violations(url, document, 100, tmp_path))
    with listening(app_of(writers_folder)) as url:
        document = knowing(url, ["writer", "other", "base"], tmp_path)
        kept(violations(url, document, 100, tmp_path))


@pytest.mark.slow
def test_the_document_is_kept_where_keys_are_asked_for(shelf_folder: Path, tmp_path: Path) -> None:
    guarded = app_of(shelf_folder, keys=KEYS, settings=ServerSettings(hosts=()))
    with listening(guarded) as url:
        document = f"{url}/openapi.json"
        said = violations(url, document, 50, tmp_path, "-H", f"Authorization: Bearer {MANAGE}")
        kept(said)
