"""Random streams for compiled code: sequence i of a seed is the same wherever it is generated.

Every sequence has its own stream, identified by (seed, purpose, index), so that a sample does not depend on its batch,
process, shard or order. Seeding a numpy generator takes about as long as generating a whole sequence, hence SplitMix64
(Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"; the generator of Java's
SplittableRandom): each stream has its own start and its own odd increment.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from metarlgym.sequences.sources.compiled import compiled

_MIX_A, _MIX_B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_STAFFORD_A, _STAFFORD_B = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE, _S27, _S30, _S31, _S33, _S11 = (np.uint64(n) for n in (1, 27, 30, 31, 33, 11))
_UNIT = 2.0**-53
MOST_SEED = 2**64 - 1


@lru_cache(maxsize=1024)
def stream_key(seed: int, *purpose: int | str) -> np.uint64:
    """The 64-bit key of a family of streams; `purpose` distinguishes families of the same seed.

    Raises:
        ValueError: a negative number, or a seed of more than 64 bits.
    """
    if not 0 <= seed <= MOST_SEED:
        raise ValueError(f"seed={seed} must be from 0 to {MOST_SEED}")
    words = [seed, *(part if isinstance(part, int) else int.from_bytes(part.encode(), "big") for part in purpose)]
    return np.random.SeedSequence(words).generate_state(1, np.uint64)[0]


@compiled(inline="always")
def _mix(z):
    z = (z ^ (z >> _S30)) * _MIX_A
    z = (z ^ (z >> _S27)) * _MIX_B
    return z ^ (z >> _S31)


@compiled()
def open_stream(key, index, state):
    """Set `state`, an array of 2 uint64 (position, increment), to the start of stream `index` of the family `key`."""
    z = _mix(key + np.uint64(index) * _GOLDEN)
    state[0] = _mix(z + _GOLDEN)
    z = (z ^ (z >> _S33)) * _STAFFORD_A
    z = (z ^ (z >> _S33)) * _STAFFORD_B
    state[1] = (z ^ (z >> _S33)) | _ONE


@compiled(inline="always")
def uniform(state):
    """A float in [0, 1) with 53 random bits."""
    state[0] += state[1]
    return np.float64(_mix(state[0]) >> _S11) * _UNIT


@compiled(inline="always")
def below(state, n):
    """An integer in 0..n-1; n is far below 2^53, so the bias is below 1e-9."""
    return np.int64(uniform(state) * n)


@compiled()
def normal(state):
    """A standard normal sample (Box and Muller 1958)."""
    return math.sqrt(-2.0 * math.log(1.0 - uniform(state))) * math.cos(2.0 * math.pi * uniform(state))


@compiled()
def log_gamma_variate(state, shape):
    """The logarithm of a Gamma(shape, 1) sample (Marsaglia and Tsang 2000).

    For small shapes, the sample itself would often underflow.
    """
    boost = 0.0
    if shape < 1.0:
        boost = math.log(1.0 - uniform(state)) / shape
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        x = normal(state)
        v = 1.0 + c * x
        if v > 0.0:
            v = v * v * v
            if math.log(1.0 - uniform(state)) < 0.5 * x * x + d - d * v + d * math.log(v):
                return math.log(d * v) + boost


@compiled()
def dirichlet(state, concentration, out):
    """Fill `out`, shape (A,), with a draw from Dirichlet(`concentration`); entries may be exactly 0 or 1."""
    high = -np.inf
    for a in range(out.size):
        out[a] = log_gamma_variate(state, concentration[a])
        high = max(high, out[a])
    total = 0.0
    for a in range(out.size):
        out[a] = math.exp(out[a] - high)
        total += out[a]
    for a in range(out.size):
        out[a] /= total
