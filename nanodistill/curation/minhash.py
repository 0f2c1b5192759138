"""Finding texts that are nearly the same, among many, in little memory.

Two texts are compared by the Jaccard similarity of their shingles (single words
and pairs of neighbours; characters in scripts without spaces). MinHash with
banded lookup proposes candidates and the similarity itself decides, so a
threshold means what it says: nothing under it is ever matched. Of pairs at a
threshold of 0.8, about 2 in 10,000 are missed (64 hashes in 16 bands of 4: a
pair of similarity s is proposed with chance 1 - (1 - s^4)^16).

Everything is held in flat arrays, under a kilobyte for a text of 30 words.

Source: A. Broder, On the resemblance and containment of documents (1997);
banding after Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from array import array
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
BANDS, ROWS = 16, 4
"""With half the bands, 1 pair in 70 at a similarity of 0.8 would be missed; twice as many take
twice the memory."""
SPREAD = np.uint64(0x9E3779B97F4A7C15)
COLUMNS = np.arange(BANDS)
FIRST_SLOTS = 1024
"""Slots of the table at first; it doubles as it fills."""
REMEMBERED = 64
"""Texts of which words and sketch are kept: several steps in turn look at the same one."""

Hashes = NDArray[np.uint32]


@lru_cache(maxsize=REMEMBERED)
def words_of(text: str) -> tuple[str, ...]:
    """Words as similarity sees them: case, width and punctuation do not count."""
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def shingles_of(text: str) -> Hashes:
    """Hashes of the words and word pairs of `text`, sorted and distinct."""
    words = words_of(text)
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    hashes = {zlib.crc32(text.encode("utf-8", "surrogatepass")) for text in (*words, *pairs)}
    return np.array(sorted(hashes), dtype=np.uint32)


def jaccard(a: Hashes, b: Hashes) -> float:
    """Shared shingles over all shingles; 0 where there are none."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    together = a.size + b.size - shared
    return shared / together if together else 0.0


def _hash_family() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Multiply-add-shift hashes on 64 bits: odd factors, any offsets."""
    source = np.random.Generator(np.random.PCG64(20240229))
    factors = source.integers(0, 1 << 63, size=(BANDS * ROWS, 1), dtype=np.uint64)
    offsets = source.integers(0, 1 << 63, size=(BANDS * ROWS, 1), dtype=np.uint64)
    return factors * np.uint64(2) + np.uint64(1), offsets


FACTORS, OFFSETS = _hash_family()


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Values with every bit depending on every bit (splitmix64's finalizer)."""
    values = values * SPREAD
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def bands_of(shingles: Hashes) -> NDArray[np.uint64]:
    """One hash for each band of the MinHash signature."""
    hashed = (FACTORS * mixed(shingles.astype(np.uint64)) + OFFSETS) >> np.uint64(32)
    signature = hashed.min(axis=1).astype(np.uint32).reshape(BANDS, ROWS).view(np.uint64)
    return mixed(mixed(signature[:, 0]) ^ signature[:, 1])


@dataclass(frozen=True, slots=True)
class Sketch:
    """A text as the index sees it: its shingles, and one hash for each band."""

    shingles: Hashes
    bands: NDArray[np.uint64]


@lru_cache(maxsize=REMEMBERED)
def sketch_of(text: str) -> Sketch:
    shingles = shingles_of(text)
    return Sketch(shingles, bands_of(shingles) if shingles.size else np.zeros(BANDS, np.uint64))


class NearIndex:
    """Texts by number, and lookup of one that is near enough to a new text."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._shingles = array("I")
        self._ends = array("Q", [0])
        self._bands: NDArray[np.uint64] = np.zeros((FIRST_SLOTS, BANDS), dtype=np.uint64)
        self._next: NDArray[np.uint32] = np.zeros((FIRST_SLOTS, BANDS), dtype=np.uint32)
        self._heads: NDArray[np.uint32] = np.zeros((BANDS, FIRST_SLOTS * 2), dtype=np.uint32)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, text: str) -> int:
        """Remember a text; its number is how many came before it."""
        sketch, number = sketch_of(text), len(self)
        if number == len(self._bands):
            self._grow()
        self._shingles.frombytes(sketch.shingles.tobytes())
        self._ends.append(len(self._shingles))
        if sketch.shingles.size:
            self._bands[number] = sketch.bands
            self._link(number)
        return number

    def nearest(self, text: str) -> tuple[int, float] | None:
        """The most similar remembered text at or above the threshold, the first of equals."""
        if not len(self) or not (sketch := sketch_of(text)).shingles.size:
            return None
        best: tuple[int, float] | None = None
        for number in self._candidates(sketch.bands):
            similarity = jaccard(sketch.shingles, self._shingles_at(number))
            if similarity >= self.threshold and (best is None or similarity > best[1]):
                best = number, similarity
        return best

    def _candidates(self, bands: NDArray[np.uint64]) -> list[int]:
        found: set[int] = set()
        column = COLUMNS
        heads = self._heads[column, self._slots(bands)]
        while (alive := heads.nonzero()[0]).size:
            column, bands = column[alive], bands[alive]
            rows = heads[alive] - 1
            found.update(rows[self._bands[rows, column] == bands].tolist())
            heads = self._next[rows, column]
        return sorted(found)

    def _shingles_at(self, number: int) -> Hashes:
        start, end = self._ends[number], self._ends[number + 1]
        return np.frombuffer(self._shingles, dtype=np.uint32)[start:end].copy()

    def _slots(self, bands: NDArray[np.uint64]) -> NDArray[np.intp]:
        return (bands % np.uint64(self._heads.shape[1])).astype(np.intp)

    def _link(self, number: int) -> None:
        slots = self._slots(self._bands[number])
        self._next[number] = self._heads[COLUMNS, slots]
        self._heads[COLUMNS, slots] = number + 1

    def _grow(self) -> None:
        self._bands = np.concatenate([self._bands, np.zeros_like(self._bands)])
        self._next = np.zeros((len(self._bands), BANDS), dtype=np.uint32)
        self._heads = np.zeros((BANDS, len(self._bands) * 2), dtype=np.uint32)
        for number in range(len(self)):
            if self._ends[number] < self._ends[number + 1]:
                self._link(number)
