"""Compiled passes over one row of logits: is it finite, what is largest, what may be chosen.

A sampler of llama.cpp reads an array of (id, logit, p), 12 bytes for each token of the
vocabulary. Filling and sorting it for 262 144 tokens costs more than all else in sampling, so
`Candidates` holds the few that can matter wherever a bound proves that the others cannot.

The bound: the row is cut into blocks of 128. At least m tokens lie at or above the m-th largest
of the blocks' maxima, so the m largest tokens do too; and most blocks need no second look.
"""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING

import llama_cpp
import numba
import numpy as np

from llamacart.hook.compiled import KEEP
from llamacart.hook.intrinsics import CACHE_LINE, prefetch

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 128
NO_TOKENS = np.zeros(0, np.int32)
_AHEAD = np.uint64(4096)
_INFINITE = 0x7F800000
_MAGNITUDE = np.int32(0x7FFFFFFF)


@numba.njit(cache=KEEP, nogil=True)
def _scan(bits, maxima):  # type: ignore[no-untyped-def]
    """Write each block's largest logit.

    Returns whether no logit is NaN or +∞ and one is finite, and the lowest.

    Floats are compared as the integers that sort as they do, for LLVM vectorises a maximum of
    floats only where NaN may be ignored. Both arrays are float32 seen as int32.
    """
    lowest, highest = np.int32(_MAGNITUDE), np.int32(-_MAGNITUDE - 1)
    for block in range(maxima.size):
        start = np.uint64(block * BLOCK)
        stop = np.uint64(min((block + 1) * BLOCK, bits.size))
        for line in range(0, BLOCK * 4, CACHE_LINE):  # hardware stops at page borders
            prefetch(np.uintp(bits.ctypes.data + start * np.uint64(4) + _AHEAD + np.uint64(line)))
        top, bottom = np.int32(-_MAGNITUDE - 1), np.int32(_MAGNITUDE)
        for i in range(start, stop):
            key = np.int32(bits[i] ^ (np.int32(bits[i] >> np.int32(31)) & _MAGNITUDE))
            top = max(top, key)
            bottom = min(bottom, key)
        maxima[block] = top ^ (np.int32(top >> np.int32(31)) & _MAGNITUDE)
        lowest, highest = min(lowest, bottom), max(highest, top)
    minus_infinity = -_INFINITE - 1
    fine = lowest >= minus_infinity and minus_infinity < highest < _INFINITE
    return fine, lowest ^ (np.int32(lowest >> np.int32(31)) & _MAGNITUDE)


@numba.njit(cache=KEEP, nogil=True)
def _first_largest(logits, maxima):  # type: ignore[no-untyped-def]
    best = 0
    for block in range(1, maxima.size):
        if maxima[block] > maxima[best]:
            best = block
    i = best * BLOCK
    while logits[i] != maxima[best]:
        i += 1
    return i


@numba.njit(cache=KEEP, nogil=True)
def _collect(logits, maxima, threshold, always, ids, values):  # type: ignore[no-untyped-def]
    """Write tokens in `always` (ascending) or with logit ≥ threshold, by id. Returns how many."""
    count, next_always = np.uint64(0), 0
    for block in range(maxima.size):
        start = np.uint64(block * BLOCK)
        stop = np.uint64(min((block + 1) * BLOCK, logits.size))
        listed = next_always < always.size and always[next_always] < stop
        if maxima[block] < threshold and not listed:
            continue
        for i in range(start, stop):
            # Written in any case: a branch on every logit would cost more than the writing.
            ids[count] = i
            values[count] = logits[i]
            taken = logits[i] >= threshold
            if listed and next_always < always.size and always[next_always] == i:
                next_always += 1
                taken = True
            count += np.uint64(taken)
    return count


@numba.njit(cache=KEEP, nogil=True)
def _everything(logits, ids, values):  # type: ignore[no-untyped-def]
    for i in range(np.uint64(logits.size)):
        ids[i] = i
        values[i] = logits[i]


@numba.njit(cache=KEEP, nogil=True)
def _drop_impossible(ids, values, count):  # type: ignore[no-untyped-def]
    """Keep candidates above −∞, in order. Returns how many."""
    kept = 0
    for i in range(count):
        if values[i] > -np.inf:
            ids[kept] = ids[i]
            values[kept] = values[i]
            kept += 1
    return kept


@numba.njit(cache=KEEP, nogil=True)
def _keep_allowed(logits, bits, out):  # type: ignore[no-untyped-def]
    """Write the logits of tokens whose bit is set, and −∞ for the others."""
    for word in range(bits.size):
        start = np.uint64(word * 32)
        stop = np.uint64(min((word + 1) * 32, logits.size))
        if bits[word] == np.uint32(0):
            for i in range(start, stop):
                out[i] = -np.inf
        elif bits[word] == np.uint32(0xFFFFFFFF):
            for i in range(start, stop):
                out[i] = logits[i]
        else:
            for i in range(start, stop):
                allowed = (bits[word] >> np.uint32(i - start)) & np.uint32(1)
                out[i] = logits[i] if allowed else -np.inf


@numba.njit(cache=KEEP, nogil=True)
def _log_sum_exp(logits, largest):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(np.uint64(logits.size)):
        total += math.exp(np.float64(logits[i]) - largest)
    return largest + math.log(total)


class Candidates:
    """The tokens that a sampler chooses from, by ascending id, and the buffers behind them.

    One thread at a time uses it: `scan` a row, `narrow` it, then `apply` samplers.

    Args:
        n_vocab: Logits in a row.
    """

    def __init__(self, n_vocab: int) -> None:
        layout = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._data = np.zeros(n_vocab, layout)
        self._maxima = np.zeros(-(-n_vocab // BLOCK), np.float32)
        self._logits: NDArray[np.float32] = np.zeros(0, np.float32)
        self._allowed = np.zeros(0, np.float32)
        self.bits = np.zeros(-(-n_vocab // 32), np.uint32)
        """Which tokens are allowed, for `restrict`: token i is bit i mod 32 of word ⌊i/32⌋."""
        self._lowest = -np.inf
        self._pointer = ctypes.cast(self._data.ctypes.data, llama_cpp.llama_token_data_p)
        self._array = llama_cpp.llama_token_data_array()
        self._reference = ctypes.byref(self._array)

    @property
    def ids(self) -> NDArray[np.int32]:
        """Ids of the candidates."""
        return self._data["id"][: self._array.size]

    def warm_up(self) -> None:
        """Compile every pass, or load it, so that no choice has to wait for that."""
        logits = np.zeros(len(self._data), np.float32)
        logits[0] = 1
        self.scan(logits)
        self.log_sum_exp()
        self.narrow(0.5, np.zeros(1, np.int32))
        self.narrow(-np.inf)
        self.drop_impossible()

    def scan(self, logits: NDArray[np.float32]) -> bool:
        """Look at a row [n_vocab], which must stay as it is until the choice is made.

        Returns:
            Whether it can be sampled from: no NaN, no +∞, and not −∞ alone.
        """
        self._logits = logits
        fine, lowest = _scan(logits.view(np.int32), self._maxima.view(np.int32))
        self._lowest = float(np.int32(lowest).view(np.float32))
        return bool(fine)

    def restrict(self) -> bool:
        """Look at the row as if the tokens that are not in `bits` had −∞.

        Returns:
            Whether a token is left to choose.
        """
        if not len(self._allowed):
            self._allowed = np.zeros(len(self._data), np.float32)
        _keep_allowed(self._logits, self.bits, self._allowed)
        return self.scan(self._allowed)

    def largest(self) -> int:
        """Id of the largest logit, the lowest id among equals."""
        return int(_first_largest(self._logits, self._maxima))

    def log_sum_exp(self) -> float:
        """The logarithm of Σ exp of all logits, summed up in doubles."""
        return float(_log_sum_exp(self._logits, float(self._logits[self.largest()])))

    def most_likely(self, m: int) -> list[int]:
        """Ids of the m largest logits, the largest first, the lower id first among equals."""
        if m <= 0:
            return []
        self.narrow(self.bound(m))
        held = self._data[: self._array.size]
        order = np.argsort(-held["logit"], kind="stable")[:m]
        return [int(token) for token in held["id"][order]]

    def bound(self, m: int) -> float:
        """A number that at least m logits reach; −∞ where m exceeds the number of blocks."""
        n_blocks = len(self._maxima)
        if m > n_blocks:
            return -np.inf
        return float(np.partition(self._maxima, n_blocks - m)[n_blocks - m])

    def narrow(self, threshold: float, always: NDArray[np.int32] = NO_TOKENS) -> None:
        """Take the tokens with logit ≥ `threshold`, and those in `always` (ascending ids)."""
        data = self._data
        if threshold <= self._lowest:
            _everything(self._logits, data["id"], data["logit"])
            return self._hold(len(data))
        floor = np.float32(threshold)
        return self._hold(
            _collect(self._logits, self._maxima, floor, always, data["id"], data["logit"])
        )

    def drop_impossible(self) -> int:
        """Forget candidates whose logit is −∞. Returns how many are left."""
        count = int(_drop_impossible(self._data["id"], self._data["logit"], self._array.size))
        self._hold(count)
        return count

    def apply(self, sampler: object) -> int:
        """Let a `llama_sampler *` act. Returns the id it selected, -1 where it selects none."""
        llama_cpp.llama_sampler_apply(sampler, self._reference)
        chosen = int(self._array.selected)
        return -1 if chosen < 0 else int(self._array.data[chosen].id)

    def _hold(self, count: int) -> None:
        array = self._array
        array.data = self._pointer  # a sampler may have put its own there
        array.size, array.selected, array.sorted = count, -1, False
