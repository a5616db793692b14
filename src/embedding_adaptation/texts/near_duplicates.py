"""Near-duplicates among any number of texts, found with MinHash signatures and bands kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import SEEK_END
from typing import TYPE_CHECKING, Any

import numpy as np
from datasketch import MinHash

from embedding_adaptation.atomic import replacing_file

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from numpy.typing import NDArray

SHINGLE = 5  # characters
PERMUTATIONS = 128  # an overlap of 0.8 is estimated with a standard error of 0.035
_RECALL = 0.95
_CHANCE = 1 / 256  # probability that two different values agree in the 8 bits kept
_MOST_CANDIDATES = 256  # bounds the time when very many texts share most of their characters
_BATCH = 2**18  # characters
_BLOCK = 2**14  # rows whose links are held in memory


class NearDuplicates:
    """Finds the texts that resemble an earlier one.

    Two texts resemble each other if the Jaccard similarity of their sets of character 5-grams, ignoring case, is above the threshold.
    MinHash estimates it. Pairs are found through bands: only texts that agree in all values of at least one band are compared, which is
    true of at least 95 % of the pairs at the threshold and of more above it.

    The search is greedy, in the order of the texts: a text is left out if it resembles an earlier text *that has not been left out*. Of a
    family the first text stays, and in a chain (b resembles a, c resembles b but not a) a and c stay. A text is compared with at most about
    256 others, the latest of each band, which matters when thousands of texts follow one pattern.

    On disk, a text takes 128 bytes for its signature (8 of the 32 bits of each value, with the estimate corrected for chance agreement)
    and 8 bytes per band, of which there are 18 at a threshold of 0.8. In memory it takes about 30 bytes.

    Args:
        folder: An empty directory, which must exist as long as this object is used.
        threshold: Similarity above which texts resemble each other, below 1.

    References:
        Broder (1997), On the resemblance and containment of documents, https://doi.org/10.1109/SEQUEN.1997.666900.
        Li and König (2010), b-Bit Minwise Hashing, https://doi.org/10.1145/1772690.1772759.
    """

    def __init__(self, folder: Path, threshold: float) -> None:
        self._folder = folder
        self._threshold = threshold
        self._bands, self._rows = bands(threshold)
        self._batch: list[str] = []
        self._characters = 0
        self._count = 0

    def add(self, text: str) -> None:
        """Add a text at the next position."""
        self._batch.append(text)
        self._characters += len(text)
        if self._characters >= _BATCH:
            self._sign()

    def add_signed(self, signed: Signed) -> None:
        """Add texts that have been signed elsewhere (see :func:`sign`) at the next positions."""
        self._sign()
        self._append(signed)

    def find(self, skip: NDArray[np.bool_], link: LinkBands | None = None) -> NDArray[np.int64]:
        """Find near-duplicates among all texts added.

        Args:
            skip: For each position, whether that text is already left out.
            link: Calls :func:`link_band` for each of the files of keys, in any order and wherever the files can be seen; ``None`` does so
                here.

        Returns:
            For each position, the position of the earlier text that it resembles most; -1 if it resembles none.
        """
        self._sign()
        resembled = np.full(self._count, -1, dtype=np.int64)
        if not self._count:
            return resembled
        bands_of_keys = [self._path(f"band{band}") for band in range(self._bands)]
        if link is not None:
            link(bands_of_keys, skip)
        for keys in bands_of_keys:
            if link is None:
                link_band(keys, skip)
            keys.unlink()
        with self._path("signatures").open("rb", buffering=0) as signature_file, self._path("links").open("w+b", buffering=0) as link_file:
            signatures = _Records(signature_file, PERMUTATIONS, np.dtype(np.uint8))
            links = _Records(link_file, self._bands, np.dtype(np.uint32))
            for start in range(0, self._count, _BLOCK):
                rows = min(_BLOCK, self._count - start)
                signatures.hold(start, signatures.read(start, rows))
                links.hold(start, self._links(start, rows))
                for row in (np.flatnonzero(links.held.any(axis=1)) + start).tolist():
                    candidates = sorted(_candidates(row, links, resembled))
                    if not candidates:
                        continue
                    agreement = (np.stack([signatures[other] for other in candidates]) == signatures[row]).mean(axis=1)
                    best = int(agreement.argmax())
                    if (agreement[best] - _CHANCE) / (1 - _CHANCE) > self._threshold:
                        resembled[row] = candidates[best]
                links.append_held()
        return resembled

    def _sign(self) -> None:
        if self._batch:
            self._append(sign(self._batch, self._threshold))
            self._batch, self._characters = [], 0

    def _append(self, signed: Signed) -> None:
        with self._path("signatures").open("ab") as file:
            file.write(signed.signatures.tobytes())
        for band in range(self._bands):
            with self._path(f"band{band}").open("ab") as file:
                file.write(signed.keys[:, band].tobytes())
        self._count += len(signed.signatures)

    def _links(self, start: int, rows: int) -> NDArray[np.uint32]:
        paths = [links_file(self._path(f"band{band}")) for band in range(self._bands)]
        return np.stack([np.fromfile(path, np.uint32, rows, offset=start * 4) for path in paths], axis=1)  # [rows, bands]

    def _path(self, name: str) -> Path:
        return self._folder / name


@dataclass(frozen=True)
class Signed:
    """What the search needs of some texts.

    Attributes:
        signatures: The lower 8 bits of their MinHash values, uint8 ``[n, PERMUTATIONS]``.
        keys: The key of each band, uint32 ``[n, bands]``.
    """

    signatures: NDArray[np.uint8]
    keys: NDArray[np.uint32]


LinkBands = Callable[[list["Path"], "NDArray[np.bool_]"], None]


def sign(texts: list[str], threshold: float) -> Signed:
    """Signatures and keys of texts, each of which depends on nothing but the text.

    Args:
        texts: The texts; may be empty.
        threshold: Similarity above which texts resemble each other, below 1.
    """
    count, rows = bands(threshold)
    signatures = np.empty((len(texts), PERMUTATIONS), np.uint8)
    keys = np.empty((len(texts), count), np.uint32)
    start = 0
    while start < len(texts):
        stop, characters = start, 0
        while stop < len(texts) and characters < _BATCH:
            characters += len(texts[stop])
            stop += 1
        values = minhash(texts[start:stop])  # [texts, PERMUTATIONS]
        signatures[start:stop] = values.astype(np.uint8)
        for band in range(count):
            key = np.zeros(len(values), dtype=np.uint64)
            for column in range(band * rows, (band + 1) * rows):
                key = (key ^ values[:, column]) * np.uint64(0x9E3779B97F4A7C15)
                key ^= key >> np.uint64(32)
            keys[start:stop, band] = key.astype(np.uint32)
        start = stop
    return Signed(signatures, keys)


def links_file(keys: Path) -> Path:
    """The file of links that belongs to a file of a band's keys."""
    return keys.with_suffix(".links")


def link_band(path: Path, skip: NDArray[np.bool_]) -> None:
    """Write the links of a band beside its keys: for each position, 1 + the last earlier position with the same key, or 0 if there is none.

    Args:
        path: The file of the keys, which stays as it is, so that the links can be written again.
        skip: For each position, whether that text is left out.
    """
    keys = np.fromfile(path, np.uint32).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(len(skip), dtype=np.uint64)
    keys = keys[~skip]
    keys.sort()  # by key, then by position
    position = keys.astype(np.uint32)
    keys >>= np.uint64(32)
    same = keys[1:] == keys[:-1]
    link = np.zeros(len(skip), dtype=np.uint32)
    link[position[1:][same]] = position[:-1][same] + np.uint32(1)
    with replacing_file(links_file(path)) as work:
        link.tofile(work)


def bands(threshold: float) -> tuple[int, int]:
    """How to divide a signature into bands.

    A pair of similarity s agrees in all r values of at least one of b bands with probability 1 - (1 - s^r)^b. The more values per band, the
    fewer pairs are compared in vain.

    Args:
        threshold: Similarity of the pairs to be found.

    Returns:
        The number of bands and of values per band: as many values as keep the probability at the threshold at 95 % or more.
    """
    for rows in range(PERMUTATIONS, 1, -1):
        count = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** count >= _RECALL:
            return count, rows
    return PERMUTATIONS, 1


def minhash(texts: list[str]) -> NDArray[np.uint32]:
    """MinHash signatures of texts, with datasketch's permutations.

    The values equal those of ``datasketch.MinHash``, but are computed over ten times as fast for short texts, because each permutation is
    applied to the shingles of all texts at once.

    Args:
        texts: At least one text.

    Returns:
        Array of shape (texts, 128).
    """
    hashes, counts = shingle_hashes(texts)
    hashes ^= hashes >> np.uint32(16)  # MurmurHash3's finaliser, which datasketch applies before permuting
    hashes *= np.uint32(0x85EBCA6B)
    hashes ^= hashes >> np.uint32(13)
    hashes *= np.uint32(0xC2B2AE35)
    hashes ^= hashes >> np.uint32(16)
    starts = np.cumsum(counts) - counts
    values = np.empty((len(texts), PERMUTATIONS), dtype=np.uint32)
    for number, (factor, summand) in enumerate(MinHash(PERMUTATIONS, seed=1, scheme="affine32").permutations.T):
        values[:, number] = np.minimum.reduceat(hashes * factor + summand, starts)
    return values


def shingle_hashes(texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Hashes of all character 5-grams of the lower-cased texts, text by text; a shorter text is one shingle.

    Args:
        texts: At least one text.

    Returns:
        The hashes of all texts, and their number per text.
    """
    padded = [text.lower().ljust(SHINGLE, "\0") for text in texts]
    lengths = np.array([len(text) for text in padded])
    characters = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    hashes = np.zeros(len(characters), dtype=np.uint64)
    inside = np.ones(len(characters), dtype=bool)
    for offset in range(SHINGLE):
        hashes[: len(characters) - offset] += characters[offset:] * np.uint64(pow(0xD6E8FEB86659FD93, offset + 1, 2**64))
        if offset:
            inside[np.cumsum(lengths) - offset] = False  # this shingle would reach into the next text
    return (hashes[inside] >> np.uint64(32)).astype(np.uint32), lengths - SHINGLE + 1


class _Records:
    """Rows of a fixed width in a file, with one block of them in memory.

    A memory map would do the same, but the pages it touches would count as memory of the process.
    """

    def __init__(self, file: FileIO, width: int, dtype: np.dtype[Any]) -> None:
        self._file = file
        self._width = width
        self._dtype = dtype
        self._start = 0
        self.held: NDArray[Any]

    def hold(self, start: int, block: NDArray[Any]) -> None:
        self._start, self.held = start, block

    def append_held(self) -> None:
        self._file.seek(0, SEEK_END)
        self._file.write(self.held.tobytes())

    def read(self, start: int, rows: int) -> NDArray[Any]:
        width = self._width * self._dtype.itemsize
        self._file.seek(start * width)
        return np.frombuffer(self._file.read(rows * width), self._dtype).reshape(rows, self._width)

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.held[row - self._start] if row >= self._start else self.read(row, 1)[0]


def _candidates(row: int, links: _Records, resembled: NDArray[np.int64]) -> set[int]:
    """Earlier kept positions that share a band with ``row``; its links are corrected to lead only to kept positions."""
    own = links[row]
    nearest = {}  # by band
    for band in np.flatnonzero(own).tolist():
        if resembled[own[band] - 1] >= 0:  # left out; its own links have been corrected already
            own[band] = links[int(own[band]) - 1][band]
        if own[band]:
            nearest[band] = int(own[band]) - 1
    candidates: set[int] = set()
    while nearest and len(candidates) < _MOST_CANDIDATES:  # all bands in turn: a band shared by few texts says the most
        candidates.update(nearest.values())
        nearest = {band: link - 1 for band, other in nearest.items() if (link := int(links[other][band]))}
    return candidates
