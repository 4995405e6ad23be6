"""An array that counts what is done to it, so that cost formulas can be held against what an algorithm does.

Additions and subtractions count one for each number made (two if complex), products one (four and two
additions if both are complex), a matrix product k products and k - 1 additions for each number made. Signs,
conjugates, copies and views are free."""

from __future__ import annotations

from typing import Any

import numpy as np

from tersa.models.convolution_transforms import Counts


class Counting(np.ndarray):
    """Counts into class-wide totals; `reset` before, `counts` after."""

    multiplications = 0
    additions = 0

    @classmethod
    def reset(cls) -> None:
        Counting.multiplications = Counting.additions = 0

    @classmethod
    def counts(cls) -> Counts:
        return Counts(Counting.multiplications, Counting.additions)

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **more: Any
    ) -> Any:
        assert method == "__call__", f"not counted: {ufunc.__name__}.{method}"
        plain = [x.view(np.ndarray) if isinstance(x, Counting) else x for x in inputs]
        if out is not None:
            more["out"] = tuple(x.view(np.ndarray) if isinstance(x, Counting) else x for x in out)
        found = getattr(ufunc, method)(*plain, **more)
        complex_sides = sum(np.iscomplexobj(x) for x in plain)
        size = found.size
        if ufunc in (np.add, np.subtract):
            Counting.additions += size * (2 if complex_sides else 1)
        elif ufunc is np.multiply:
            _product(size, 1, complex_sides)
        elif ufunc is np.matmul:
            inner = plain[0].shape[-1]
            _product(size, inner, complex_sides)
            Counting.additions += size * (inner - 1) * (2 if complex_sides else 1)
        elif ufunc is np.true_divide:
            Counting.multiplications += size * (2 if complex_sides else 1)
        else:
            assert ufunc in (np.negative, np.conjugate), f"not counted: {ufunc.__name__}"
        return found.view(Counting)


def _product(size: int, inner: int, complex_sides: int) -> None:
    Counting.multiplications += size * inner * (1, 2, 4)[complex_sides]
    Counting.additions += size * inner * (0, 0, 2)[complex_sides]


def counted(x: np.ndarray) -> Counting:
    """The same array, counting."""
    return x.view(Counting)
