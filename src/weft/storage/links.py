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
        guard.refuse_links_out(path, folder)
        if not path.is_dir():
            guard.check_file(path)
