"""Shares of train cut off for validation and test: seeded, stratified, equal texts on one side."""

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np


class CutError(ValueError):
    """A share that cannot be cut; the message is put behind the data set's name."""


def cut_rows(
    texts: Iterable[str], labels: Sequence[Hashable] | None, shares: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """The rows of train and of each share, ascending; every row is in one of them.

    A pure function of its arguments, and of `texts` alone in which texts go together: equal texts (of several rows)
    are one group and never parted. The order in which groups are drawn is that of a keyed hash of the text, so it
    hangs neither on the order of the rows nor on a random generator. Each label gives its share of rows as nearly as
    whole groups allow, small labels first; what it cannot give is drawn from the next. A label keeps at least one
    group in train, unless a share could not be filled otherwise. (scikit-learn's StratifiedGroupKFold cuts 1/k only
    and takes minutes where groups are many; StratifiedShuffleSplit refuses labels with one row.)

    Args:
        texts: the text of each row.
        labels: what to stratify by, for each row; None for nothing.
        shares: of the rows, each above 0 and together below 1, by the name of the split.
        seed: another seed draws other groups.

    Raises:
        CutError: if a share would be empty, or train.
    """
    keys = np.fromiter((_key(text, seed) for text in texts), dtype=np.uint64)
    if not len(keys):
        raise CutError("train has no rows to cut from")
    _, first, group_of_row, sizes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    strata = _strata(None if labels is None else [labels[row] for row in first], sizes)
    owner = np.zeros(len(sizes), dtype=np.int8)
    for number, (split, share) in enumerate(shares.items(), start=1):
        taken = _take_share(share, strata, sizes, owner)
        if not taken:
            raise CutError(
                f"{split}: {share:g} cannot be cut from train: its {len(keys)} rows hold {len(sizes)} different "
                f"{'text' if len(sizes) == 1 else 'texts'}, and equal texts stay together"
            )
        owner[taken] = number
    owner_of_row = owner[group_of_row]
    return {split: np.flatnonzero(owner_of_row == number) for number, split in enumerate(["train", *shares])}


def _key(text: str, seed: int) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big")


def _strata(labels: Sequence[Hashable] | None, sizes: np.ndarray) -> list[np.ndarray]:
    """Groups of each label in the order of their keys; labels with few rows first."""
    if labels is None:
        return [np.arange(len(sizes))]
    codes: dict[Hashable, int] = {}
    of_group = np.fromiter((codes.setdefault(label, len(codes)) for label in labels), dtype=np.int64)
    order = np.argsort(of_group, kind="stable")
    strata = np.split(order, np.cumsum(np.bincount(of_group))[:-1])
    return sorted(strata, key=lambda groups: int(sizes[groups].sum()))


def _take_share(share: float, strata: Sequence[np.ndarray], sizes: np.ndarray, owner: np.ndarray) -> list[int]:
    """Groups that make up a share of all rows; only of those that no other share owns."""
    taken: list[int] = []
    wanted = 0.0
    for groups in strata:
        wanted += share * float(sizes[groups].sum())
        free = groups[owner[groups] == 0]
        wanted -= _draw(free[:-1], wanted, sizes, taken)
    if wanted >= 0.5 or not taken:
        free = np.flatnonzero(owner == 0)
        free = free[~np.isin(free, taken)]
        _draw(free[:-1], max(wanted, 0.0 if taken else 1.0), sizes, taken)
    return taken


def _draw(groups: np.ndarray, wanted: float, sizes: np.ndarray, taken: list[int]) -> int:
    """Draws groups until about `wanted` rows are there, passing over those that would lead farther away from it."""
    drawn = 0
    for group in groups.tolist():
        if wanted - drawn < 0.5:
            break
        size = int(sizes[group])
        if size / 2 <= wanted - drawn:
            taken.append(group)
            drawn += size
    return drawn
