"""Union-find on tensors of numbered channels, for `groups.py`."""

from __future__ import annotations

import torch
from torch import Tensor


class DisjointSets:
    """Union-find over integers 0..n-1, on whole tensors of pairs; the root of a set is its smallest member.

    Example:
        >>> import torch
        >>> sets = DisjointSets(4)
        >>> sets.unite(torch.tensor([3, 2]), torch.tensor([1, 2]))
        >>> sets.find(torch.tensor([0, 1, 2, 3])).tolist()
        [0, 1, 2, 1]
    """

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def grow(self, count: int) -> Tensor:
        """Add `count` new singletons and return their numbers, (count,), int64."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def unite(self, left: Tensor, right: Tensor) -> None:
        """Make each pair (left[i], right[i]) one set."""
        pairs = torch.unique(torch.stack([left.reshape(-1), right.reshape(-1)], dim=1), dim=0)
        for a, b in pairs.tolist():
            one, two = self._root(a), self._root(b)
            if one != two:
                self._parent[max(one, two)] = min(one, two)

    def find(self, items: Tensor) -> Tensor:
        """The root of each item, same shape."""
        flat = [self._root(item) for item in items.reshape(-1).tolist()]
        return torch.tensor(flat, dtype=torch.long).view(items.shape)

    def _root(self, item: int) -> int:
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item
