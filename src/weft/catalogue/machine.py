"""What this machine has for weft, and what is wrong with it and what to do: `weft doctor`."""

import os
import platform
import shutil
import tempfile
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement

from weft.base.locate import ALIASES, Alias, how_to_get
from weft.config import Run, validate
from weft.data.encoding import cache_folder

LEAST_FREE = 1 << 30
"""Bytes; less is too little for a base from the hub."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
FOR_WORK_ON_WEFT = {"test", "lint", "docs"}
"""Extras that nobody misses who uses weft."""
_DRIVER = Path("/dev/nvidiactl")

Page = dict[str, Any]


def examined() -> Page:
    """All of it, as JSON values; `wrong` holds a sentence for each thing that is, with what to do."""
    wrong: list[str] = []
    packages = _packages(wrong)
    torch = _imported("torch", wrong)
    return {
        "weft": metadata.version("weft"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages,
        "extras": _extras(),
        "devices": _devices(torch, wrong) if torch else [],
        "threads": _threads(torch),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "offline": {name: os.environ[name] for name in OFFLINE if name in os.environ},
        "default_base": _default_base(),
        "folders": _folders(wrong),
        "wrong": wrong,
    }


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in metadata.requires("weft") or ()]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages(wrong: list[str]) -> list[dict[str, str]]:
    """What weft requires, and which version is there."""
    found = []
    for one in _requirements():
        # One that only an extra wants, or another system, is not required here.
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        version = _installed(one.name)
        wanted = f"{one.name}{one.specifier}"
        found.append(
            {"name": one.name, "version": version or "absent", "needs": str(one.specifier)}
        )
        if version is None or not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} is {version or 'absent'}: pip install '{wanted}'")
    return found


def _imported(name: str, wrong: list[str]) -> Any:
    """A module that the examination needs; None where it is absent or broken, for that is when one asks a doctor."""
    try:
        return import_module(name)
    except (ImportError, OSError) as error:
        package = name.partition(".")[0]
        # One that is absent is named among the packages.
        if _installed(package) is not None:
            why = next(iter(str(error).splitlines()), type(error).__name__)
            wrong.append(f"{package} cannot be imported ({why:.200}): reinstall it")
        return None


def _extras() -> list[dict[str, str]]:
    """Whether what an extra brings is there."""
    names = metadata.metadata("weft").get_all("Provides-Extra") or []
    found = []
    for extra in sorted(set(names) - FOR_WORK_ON_WEFT):
        needed = [
            one
            for one in _requirements()
            if one.marker is not None
            and one.marker.evaluate({"extra": extra})
            and not one.marker.evaluate({"extra": ""})
        ]
        absent = [one.name for one in needed if _installed(one.name) is None]
        state = (
            f"absent ({', '.join(absent)}): pip install 'weft[{extra}]'" if absent else "present"
        )
        found.append({"extra": extra, "state": state})
    return found


def _devices(torch: Any, wrong: list[str]) -> list[dict[str, str]]:
    """Where torch can compute, each tried."""
    names = {"cpu": platform.processor() or platform.machine()}
    if torch.cuda.is_available():
        for at in range(torch.cuda.device_count()):
            size = torch.cuda.get_device_properties(at).total_memory / 2**30
            names[f"cuda:{at}"] = f"{torch.cuda.get_device_name(at)}, {size:.0f} GiB"
    elif _DRIVER.exists():
        built = "is built without CUDA" if torch.version.cuda is None else "cannot use it"
        wrong.append(
            f"an NVIDIA driver is here, but torch {torch.__version__} {built}: install the build for your driver "
            "(pytorch.org/get-started)"
        )
    if torch.backends.mps.is_available():
        names["mps"] = "Apple's Metal"
    found = []
    for device, name in names.items():
        state = "computes"
        try:
            sum_ = (torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)).sum().item()
            if sum_ != 512:
                state = f"computes wrongly: 8 x 8 ones, squared, sum to {sum_}"
        except RuntimeError as error:
            state = f"fails: {str(error).splitlines()[0]:.200}"
        if state != "computes":
            wrong.append(f"device {device} {state}; run with --set device=cpu, or mend its driver")
        found.append({"device": device, "name": name, "state": state, "half": _half(device)})
    return found


def _half(device: str) -> str:
    """Whether half precision pays on a device."""
    from weft.base.precision import is_emulated  # torch

    kind = device.partition(":")[0]
    slow = [name for name in ("bf16", "fp16") if is_emulated(kind, name)]
    return f"{' and '.join(slow)} emulated: slower than fp32" if slow else "computes"


def _threads(torch: Any) -> Page:
    return {
        "torch": torch.get_num_threads() if torch else None,
        "cores": os.cpu_count() or 1,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
    }


def _default_base() -> Page:
    """The base of a run that names none, and how to get it."""
    name = Run.model_fields["base"].default
    alias = validate(Alias, ALIASES.read(name), f"base {name}")
    if alias.package is None:
        return {"base": name, "state": f"from the hub ({alias.hub})"}
    there = find_spec(alias.package) is not None
    return {"base": name, "state": "present" if there else f"absent: {how_to_get(alias.package)}"}


def _folders(wrong: list[str]) -> list[Page]:
    """Caches, the folder for drafts and the one weft runs in: sizes, rights, free disk."""
    places = {"cache": (cache_folder(), "set WEFT_CACHE to another folder")}
    if hub := _imported("huggingface_hub.constants", wrong):
        places["hub"] = (Path(hub.HF_HUB_CACHE), "set HF_HUB_CACHE to another folder")
    if datasets := _imported("datasets.config", wrong):
        advice = "set HF_DATASETS_CACHE to another folder"
        places["datasets"] = (Path(datasets.HF_DATASETS_CACHE), advice)
    places |= {
        "temporary": (Path(tempfile.gettempdir()), "set TMPDIR to another folder"),
        "here": (Path.cwd(), "give --out a folder elsewhere"),
    }
    found = []
    for what, (path, advice) in places.items():
        free, writable = shutil.disk_usage(_standing(path)).free, _writable(path)
        page: Page = {"folder": what, "path": str(path), "writable": writable}
        page["free_gib"] = round(free / 2**30, 1)
        if what in ("cache", "hub", "datasets"):
            page["mib"] = round(_size(path) / 2**20, 1)
        found.append(page)
        if not writable:
            wrong.append(f"{path} ({what}) cannot be written to: {advice}")
        elif free < LEAST_FREE:
            wrong.append(
                f"{path} ({what}) is on a disk with {free / 2**20:.0f} MiB free: free some, or {advice}"
            )
    return found


def _standing(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next(one for one in (path, *path.absolute().parents) if one.exists())


def _writable(path: Path) -> bool:
    """Whether a file can be made there, by making one: rights alone do not tell of disks that are read-only."""
    try:
        with tempfile.TemporaryFile(dir=_standing(path)):
            return True
    except OSError:
        return False


def _size(path: Path) -> int:
    """Bytes of the files in a folder that may be read."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            file = Path(folder) / name
            # The hub's cache has a link to each file of a revision.
            if file.is_file() and not file.is_symlink():
                total += file.stat().st_size
    return total
