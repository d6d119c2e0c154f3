"""Folders of experts that are copied or handed on hold files of their own."""

from pathlib import Path

from weft import guard


def refuse_links(folder: Path) -> None:
    """Refuse a folder in which a link leads out of it, or something is neither a file nor a folder.

    What is exported, mixed or imported would take the file along that the link names, whatever it is.

    Raises:
        ValueError: Names the link, device, pipe or socket.
    """
    for path in sorted(folder.rglob("*")):
        try:
            guard.refuse_links_out(path, folder)
        except RuntimeError:
            # What Python 3.11 and 3.12 say of a link that leads to itself.
            raise ValueError(f"{path}: a link that leads to itself; put the file there") from None
        if not path.is_dir():
            guard.check_file(path)
