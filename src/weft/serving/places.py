"""Which names there are and where they lie: folders given by name, and whatever lies below folders of experts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from weft.registry import unknown
from weft.serving.entries import Entry, Place, described, place_of, places_in
from weft.serving.errors import ExpertRefused, UnknownExpert
from weft.serving.names import owner, plain
from weft.storage.personal.opened import opened

_Stamp = tuple[tuple[int, int], ...]
"""Times and sizes of the files that an entry was read from."""


class Places:
    """Names and folders; files are looked at, never opened but for cards.

    Args:
        experts: Run folders by name.
        folders: Folders of which every run folder is an expert by its own name, looked through anew each time.
        roots: Folders below which an expert may be put beside, with `folders`.

    Raises:
        NameRefused: If no expert can have one of the names.
        ExpertRefused: If a folder is no finished run, or a folder of experts is none.
    """

    def __init__(
        self,
        experts: Mapping[str, str | Path],
        folders: Sequence[str | Path] = (),
        roots: Sequence[str | Path] = (),
    ) -> None:
        self._folders = [_is_folder(path) for path in folders]
        self._roots = [*self._folders, *(_is_folder(path) for path in roots)]
        self._named = {plain(name): Path(path).resolve() for name, path in experts.items()}
        self._hidden: set[str] = set()
        self._entries: dict[str, tuple[_Stamp, Entry]] = {}
        for path in self._named.values():
            _finished(path)

    def names(self) -> dict[str, Path]:
        """Run folders by name; one given by name goes before one that lies in a folder."""
        found: dict[str, Path] = {}
        for folder in reversed(self._folders):
            found.update(places_in(folder))
        for name in self._hidden:
            found.pop(name, None)
        return found | self._named

    def place(self, name: str) -> Place:
        """Where the expert of a name lies; nothing else is looked at.

        Raises:
            UnknownExpert: If there is none.
            ExpertRefused: If there is a folder that holds none.
        """
        own, user = owner(name)
        path = self.folder(own)
        if path is None:
            raise self._unknown(own)
        return replace(_finished(path, own), user=user)

    def answering(self, name: str) -> str:
        """The name itself; of a user who has no expert of that run, the population's.

        Raises:
            UnknownExpert, ExpertRefused: As of `place`; or if the run has no experts of users.
        """
        own, user = owner(name)
        if user is None:
            return name
        folder = self.place(own).folder
        try:
            users = opened(folder).users
        except (OSError, ValueError):
            raise UnknownExpert(
                f"{own} has no experts of users; name {own}, or a run that was trained with experts: shared+personal"
            ) from None
        return name if user in users else own

    def means(self, name: str, place: Place) -> bool:
        """Whether a name means that place now."""
        return self.folder(owner(name)[0]) == place.folder

    def put(self, name: str, place: Place) -> None:
        """Let a name mean a place."""
        self.point(name, place.folder)

    def point(self, name: str, folder: Path | None) -> None:
        """Let a name mean a folder, which is looked at when somebody asks for it, or nothing."""
        if folder is None:
            self._named.pop(name, None)
            self._hidden.add(name)
            self._entries.pop(name, None)
        else:
            self._named[plain(name)] = folder
            self._hidden.discard(name)

    def remove(self, name: str) -> None:
        """Let a name mean nothing any more; files stay, and what lies in a folder is back after a restart.

        Raises:
            UnknownExpert: If it does not mean anything.
        """
        if self.folder(name) is None:
            raise self._unknown(name)
        self.point(name, None)

    def allowed(self, folder: str | Path) -> Place:
        """The place that somebody asks to put on the shelf.

        Args:
            folder: Below one of the roots, or relative to one.

        Raises:
            ExpertRefused: If it lies elsewhere, also by a link, or holds no expert.
        """
        for root in self._roots:
            path = (root / folder).resolve()
            if path.is_relative_to(root) and path != root and path.is_dir():
                return _finished(path, str(folder))
        raise ExpertRefused(
            f"{str(folder)!r:.200} lies in none of the folders that this server takes experts from; give a run folder "
            "below one of them"
        )

    def entries(self) -> list[Entry]:
        """Of all names, in their order; a card is read again only where it has changed."""
        names = self.names()
        found = [self.entry(name, path) for name, path in sorted(names.items())]
        for name in self._entries.keys() - names.keys():
            del self._entries[name]
        return found

    def folder(self, name: str) -> Path | None:
        """Where the folder of a name lies, None where it means nothing; folders are not looked through for it."""
        path = self._named.get(name)
        if path is None and name not in self._hidden:
            path = next((own for folder in self._folders if (own := _below(folder, name))), None)
        return path

    def _unknown(self, name: str) -> UnknownExpert:
        """The refusal of a name, beside those that were there when all were last listed."""
        return UnknownExpert(unknown("expert", name, {*self._entries, *self._named}))

    def entry(self, name: str, path: Path) -> Entry:
        """Of what lies in a folder; one that holds no expert is listed as refused."""
        try:
            place = _finished(path, name)
            stamp = _stamp(place)
        except (OSError, ExpertRefused) as error:
            reason = str(error).replace(str(path), name)
            return Entry(name, "expert", (), "", None, 0, False, None, "refused", reason)
        kept = self._entries.get(name)
        if kept is None or kept[0] != stamp:
            kept = self._entries[name] = stamp, described(name, place)
        return kept[1]


def _is_folder(path: str | Path) -> Path:
    if not Path(path).is_dir():
        raise ExpertRefused(f"{path} is no folder; give one that holds run folders")
    return Path(path).resolve()


def _below(folder: Path, name: str) -> Path | None:
    path = folder / name
    return path if path.is_dir() and path.resolve().is_relative_to(folder) else None


def _finished(path: Path, called: str = "") -> Place:
    """What a folder holds, by whatever it is called where a refusal is told."""
    place = place_of(path)
    if place is None:
        raise ExpertRefused(
            f"{called or path} holds no expert: give a run folder that `weft train`, "
            "`weft merge` or `weft mix` has finished"
        )
    return place


def _stamp(place: Place) -> _Stamp:
    files = [folder / "weft.json" for folder in place.cards.values()]
    found = [path.stat() for path in files]
    return tuple((own.st_mtime_ns, own.st_size) for own in found)
