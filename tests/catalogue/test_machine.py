"""What `weft doctor` says of this machine is so, and what is wrong is found, with what to do."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from tests.voice import without_voice
from weft.cli import doctor


def examined(**environment: str) -> tuple[int, dict[str, Any]]:
    """Exit code and page of `weft doctor --json` in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-m", "weft", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert without_voice(ran.stderr) == ""
    return ran.returncode, json.loads(ran.stdout)


def test_versions_devices_and_folders_are_this_machines(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_bytes(bytes(3 << 20))
    code, page = examined(WEFT_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert (code, page["wrong"]) == (0, [])
    versions = {one["name"]: one["version"] for one in page["packages"]}
    assert versions["torch"] == torch.__version__
    assert versions["pydantic"] == metadata.version("pydantic")
    assert page["memory_gib"] == round(psutil.virtual_memory().total / 2**30, 1)
    assert page["devices"][0]["device"] == "cpu"
    assert {one["state"] for one in page["devices"]} == {"computes"}
    assert page["offline"]["HF_HUB_OFFLINE"] == "1"
    cache = next(one for one in page["folders"] if one["folder"] == "cache")
    assert (cache["path"], cache["mib"], cache["writable"]) == (str(tmp_path), 3.0, True)
    extras = {one["extra"]: one["state"] for one in page["extras"]}
    assert extras["report"] == "present"
    assert not {"test", "lint"} & set(extras)


def test_what_is_wrong_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    described = tmp_path / "site" / "weft-0.1.0.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: weft\nVersion: 0.1.0\nProvides-Extra: more\n"
        "Requires-Dist: numpy>=999\nRequires-Dist: nowhere-to-be-found>=2\n"
        "Requires-Dist: not-here; sys_platform == 'none'\n"
        "Requires-Dist: also-absent>=1; extra == 'more'\n"
    )
    path = os.pathsep.join([str(tmp_path / "site"), *sys.path])
    code, page = examined(WEFT_CACHE=str(tmp_path / "file" / "below"), PYTHONPATH=path)
    assert code == doctor.WRONG
    assert page["wrong"] == [
        f"numpy is {metadata.version('numpy')}: pip install 'numpy>=999'",
        "nowhere-to-be-found is absent: pip install 'nowhere-to-be-found>=2'",
        f"{tmp_path}/file/below (cache) cannot be written to: set WEFT_CACHE to another folder",
    ]
    assert page["extras"] == [
        {"extra": "more", "state": "absent (also-absent): pip install 'weft[more]'"}
    ]


def test_a_doctor_is_asked_where_torch_is_broken(tmp_path: Path) -> None:
    lacks = "libcudart.so.12: cannot open shared object file"
    for name in ("torch", "datasets"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError({lacks!r})\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    code, page = examined(WEFT_CACHE=str(tmp_path), PYTHONPATH=path)
    assert code == doctor.WRONG
    assert page["wrong"] == [
        f"torch cannot be imported ({lacks}): reinstall it",
        f"datasets cannot be imported ({lacks}): reinstall it",
    ]
    assert (page["devices"], page["threads"]["torch"]) == ([], None)
    assert [one["folder"] for one in page["folders"]] == ["cache", "hub", "temporary", "here"]
