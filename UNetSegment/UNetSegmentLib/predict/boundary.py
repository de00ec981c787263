"""The two inner loops of the export, compiled by numba where it is installed.

Float32 operations keep the order of :mod:`interpolate`, none fused or reordered, so that
the labels are those of the NumPy form to the last voxel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np


@cache
def compiled() -> tuple[Callable[..., None], Callable[..., None]]:
    """:func:`argmax` and :func:`fill` as machine code, kept on disk after the first call."""
    import numba

    return numba.njit(nogil=True, cache=True)(argmax), numba.njit(nogil=True, cache=True)(fill)


def argmax(values: np.ndarray, winner: np.ndarray) -> None:
    """Index of the greatest of (K, N) along K, the first of equals, into ``winner`` (N,)."""
    count, size = values.shape
    block = 4096
    best = np.empty(block, np.float32)
    for start in range(0, size, block):
        length = min(block, size - start)
        for n in range(length):
            best[n] = values[0, start + n]
            winner[start + n] = 0
        for c in range(1, count):
            for n in range(length):
                if values[c, start + n] > best[n]:
                    best[n] = values[c, start + n]
                    winner[start + n] = c


def fill(values, winner, rows, row_weight, j0, j1, wj, k0, k1, wk, order, threshold, regions, table, result):
    """Label output rows; see :func:`export._fill`, whose arguments and answers are the same."""
    count, mixed = values.shape[0], np.iinfo(np.uint16).max
    size_j, size_k = winner.shape[1], winner.shape[2]
    cells = np.empty((size_j, size_k), np.uint16)
    step_j, step_k = j1[0] - j0[0], k1[0] - k0[0]
    for n in range(len(j0)):
        step_j = max(step_j, j1[n] - j0[n])
    for n in range(len(k0)):
        step_k = max(step_k, k1[n] - k0[n])
    line = np.empty(len(k0), np.int64)
    best = np.empty(len(k0), np.float32)
    won = np.empty(len(k0), np.int64)
    last_low, last_high = -1, -1
    for row in range(result.shape[0]):
        low, high, wi = rows[0, row], rows[1, row], row_weight[row]
        if low != last_low or high != last_high:
            for j in range(size_j):
                ju = min(j + step_j, size_j - 1)
                for k in range(size_k):
                    ku = min(k + step_k, size_k - 1)
                    a = winner[low, j, k]
                    same = (
                        (winner[low, j, ku] == a)
                        & (winner[low, ju, k] == a)
                        & (winner[low, ju, ku] == a)
                        & (winner[high, j, k] == a)
                        & (winner[high, j, ku] == a)
                        & (winner[high, ju, k] == a)
                        & (winner[high, ju, ku] == a)
                    )
                    cells[j, k] = a if same else mixed
            last_low, last_high = low, high
        for j in range(len(j0)):
            jl, ju, v = j0[j], j1[j], wj[j]
            found = 0
            for k in range(len(k0)):
                cell = cells[jl, k0[k]]
                if cell == mixed:
                    line[found] = k
                    found += 1
                else:
                    result[row, j, k] = table[cell]
            if found == 0:
                continue
            for n in range(found):
                best[n] = -np.inf
                won[n] = 0
            for position in range(count):
                c = order[position]
                for n in range(found):
                    kl, ku = k0[line[n]], k1[line[n]]
                    x00, x01 = values[c, low, jl, kl], values[c, low, jl, ku]
                    x10, x11 = values[c, low, ju, kl], values[c, low, ju, ku]
                    x00 += (values[c, high, jl, kl] - x00) * wi
                    x01 += (values[c, high, jl, ku] - x01) * wi
                    x10 += (values[c, high, ju, kl] - x10) * wi
                    x11 += (values[c, high, ju, ku] - x11) * wi
                    y0 = x00 + (x10 - x00) * v
                    y1 = x01 + (x11 - x01) * v
                    z = y0 + (y1 - y0) * wk[line[n]]
                    if regions:
                        if z > threshold:
                            won[n] = position + 1
                    elif z > best[n] or position == 0:
                        best[n] = z
                        won[n] = position
            for n in range(found):
                result[row, j, line[n]] = table[won[n]]
