"""Constant-time sampling from a fixed discrete distribution: the alias method (Walker 1977, Vose 1991).

A slot's threshold and alias share one 64-bit word, so that a draw touches a single memory location.
"""

from __future__ import annotations

import numpy as np

from metarlgym.sequences.sources.compiled import compiled

_LOW = np.uint64(2**32 - 1)
_S32 = np.uint64(32)


@compiled()
def alias_tables(probabilities):
    """Tables `(R, n)` uint64 for distributions `(R, n)`, n below 2^32. Probabilities are accurate to 2^-32 / n."""
    rows, n = probabilities.shape
    tables = np.empty((rows, n), np.uint64)
    share = np.empty(n)
    small, large = np.empty(n, np.int64), np.empty(n, np.int64)
    for r in range(rows):
        smalls = larges = 0
        for i in range(n):
            share[i] = probabilities[r, i] * n
            if share[i] < 1.0:
                small[smalls] = i
                smalls += 1
            else:
                large[larges] = i
                larges += 1
        while smalls > 0 and larges > 0:
            smalls -= 1
            i, j = small[smalls], large[larges - 1]
            tables[r, i] = (np.uint64(share[i] * 4294967295.0) << _S32) | np.uint64(j)
            share[j] -= 1.0 - share[i]
            if share[j] < 1.0:
                larges -= 1
                small[smalls] = j
                smalls += 1
        # The remaining slots have a threshold of 1 up to rounding: each is its own alias.
        for k in range(smalls):
            tables[r, small[k]] = (_LOW << _S32) | np.uint64(small[k])
        for k in range(larges):
            tables[r, large[k]] = (_LOW << _S32) | np.uint64(large[k])
    return tables


@compiled(inline="always")
def alias_draw(table, u):
    """Draw an outcome 0..n-1 from one row of `alias_tables`, given `u` uniform in [0, 1)."""
    place = u * table.size
    slot = np.int64(place)
    entry = table[slot]
    keeps = np.int64(np.uint64((place - slot) * 4294967296.0) < (entry >> _S32))
    other = np.int64(entry & _LOW)
    return other + keeps * (slot - other)  # branch-free, since the branch would be unpredictable
