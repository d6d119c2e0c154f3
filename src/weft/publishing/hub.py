"""`weft push`: what `weft export` writes, with a model card, as a repository on the hub.

Everything that can be wrong here is found before anything is created there.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import yaml
from huggingface_hub import HfApi, ModelCard, ModelCardData, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id

from weft.atomic import write_text
from weft.model.card import Card
from weft.reporting.cards import MARK, NAME, card_text
from weft.reporting.run_report import gather
from weft.runs import RunFolder
from weft.storage.card import read_card
from weft.storage.exporting import export

_ADVICE = {
    401: "the hub does not take this token: log in again (hf auth login), or set HF_TOKEN to one that is valid",
    403: "this token may not write there: make one with write access, or push to an account of your own",
    404: "there is no such account or repository, or this token may not see it",
}
"""What an answer of the hub means to somebody who pushes."""
_FRONT = {"license": str, "library_name": str, "pipeline_tag": str, "tags": list}
"""What values of a card's front matter are."""
_UNANSWERED: tuple[type[Exception], ...] = (HfHubHTTPError.__bases__[0],)
"""Errors of the network below the hub's: of whichever client its library has, versions differ in that."""


def push(
    run: str | Path,
    repo: str,
    *,
    to: Literal["peft", "merged"] = "peft",
    rank: int | None = None,
    private: bool = False,
    licence: str | None = None,
    message: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> str:
    """Export a run and upload it to a model repository on the hub, which is made if it is not there.

    The card is the README of the expert's folder, as `weft report --cards` or you left it; without one it is written:
    base, scores with intervals, how to load it, settings. A base that is a folder of this machine is named by its path
    in it: push what was trained on a base from the hub where others are to open it.

    Args:
        run: The run folder of one task, or of a mixture.
        repo: `OWNER/NAME`.
        to: As of `weft.export`: for PEFT, or merged for transformers.
        rank: As of `weft.export`.
        private: Make the repository private; one that is there stays as it is.
        licence: What the card names, as the hub calls it.
        message: Of the commit.
        revision: Branch to write to; None is main.
        create_pr: Propose it to the repository's owners in place of writing.
        token: None takes the one of `hf auth login` or HF_TOKEN.

    Returns:
        Where it can be seen.

    Raises:
        ValueError: If there is no token or it may not write there, the hub is out of reach, the run cannot be
            exported, or its card would not be read by the hub.
    """
    _check_name(repo)
    if not (token or get_token()):
        raise ValueError(
            f"{repo}: nobody is logged in to the hub; log in (hf auth login), set HF_TOKEN, or give a token"
        )
    folder = RunFolder.open(run)
    if folder.run.tasks and folder.run.mixture is None:
        names = ", ".join(str(part.path) for part in folder.parts())
        raise ValueError(f"{run} trained several tasks; push the run folder of one: {names}")
    with TemporaryDirectory() as place:
        written = export(folder.path, Path(place) / "repo", to, rank=rank)
        _write_card(folder, written, licence)
        check_card((written / NAME).read_text(encoding="utf-8"), f"{run}: its card")
        api = HfApi(token=token)
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo,
                folder_path=written,
                commit_message=message or f"Upload {folder.path.name} with weft",
                revision=revision,
                create_pr=create_pr,
            )
        except OfflineModeIsEnabled as error:
            raise ValueError(
                f"{repo}: HF_HUB_OFFLINE is set, so nothing is uploaded; unset it to push"
            ) from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            said = str(error.server_message or error).strip().splitlines()[0]
            advice = _ADVICE.get(status, "try again later")
            raise ValueError(f"{repo}: {advice} (the hub says {status}: {said:.200})") from error
        except _UNANSWERED as error:
            raise ValueError(
                f"{repo}: {api.endpoint} cannot be reached ({type(error).__name__}: {error}); check the network"
            ) from error
    return done.pr_url or f"{api.endpoint}/{repo}"


def check_card(text: str, where: str) -> None:
    """Refuse a card that the hub could not read: its front matter, and the scores in it. No network is needed.

    Args:
        text: README.md.
        where: What errors call it.

    Raises:
        ValueError: Says what is wrong.
    """
    found = REGEX_YAML_BLOCK.search(text)
    try:
        # Once for what the hub makes of it, and once as it stands: the library mends some of it silently.
        ModelCard(text, ignore_metadata_errors=False)
        front = yaml.safe_load(found[2]) if found else {}
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{where} has front matter that the hub does not read: {error!s:.300}"
        ) from error
    for name, kind in _FRONT.items():
        if name in front and not isinstance(front[name], kind):
            raise ValueError(
                f"{where}: {name} should be a {kind.__name__}, it is {front[name]!r:.80}"
            )
    tags = front.get("tags", [])
    if not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"{where}: every tag is a text, they are {tags!r:.120}")
    base = front.get("base_model", [])
    for name in [base] if isinstance(base, str) else base:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise ValueError(f"{where}: base_model {name!r} is no id of the hub") from error


def _check_name(repo: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"{repo!r} is no name of a repository: {error}") from error
    if repo.count("/") != 1:
        raise ValueError(f"{repo!r}: expected OWNER/NAME")


def _write_card(folder: RunFolder, written: Path, licence: str | None) -> None:
    path = written / NAME
    if path.is_file() and MARK not in path.read_text(encoding="utf-8"):
        if licence is not None:
            raise ValueError(
                f"{folder.expert / NAME} is your own card: write the licence into its front matter, and leave "
                "it away here"
            )
        return
    if path.is_file() and licence is None:
        return
    if folder.run.mixture is not None:
        heads = [read_card(own) for own in sorted((folder.mixture / "heads").iterdir())]
        write_text(path, _mixture_card(folder, heads[0], licence))
        return
    (group,) = gather([folder.path]).groups
    write_text(path, card_text(group.runs[0], licence=licence))


def _mixture_card(folder: RunFolder, head: Card, licence: str | None) -> str:
    """A short card: what the mixture is of."""
    mixture = folder.run.mixture
    assert mixture is not None
    on_the_hub = not Path(head.source).is_absolute()
    data = ModelCardData(
        base_model=head.source if on_the_hub else None,
        library_name="peft",
        license=licence,
        tags=["weft", mixture.name],
    )
    title = f"# {mixture.name} on {Path(head.base).name}"
    what = "Several LoRA experts and the gates that mix them, in PEFT's format of X-LoRA."
    return f"---\n{data.to_yaml()}\n---\n\n{MARK}\n\n{title}\n\n{what}\n"
