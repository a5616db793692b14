"""Clean a corpus of any length: cut passages out of texts and leave texts out."""

from __future__ import annotations

import re
import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm.auto import tqdm

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.cluster.pieces import as_bytes, as_texts, work_through
from embedding_adaptation.identity import TextsIdentity, text_digest, text_words
from embedding_adaptation.pipelines.data_augmentation.errors import AugmentationError
from embedding_adaptation.texts.language import identify_language, known_languages
from embedding_adaptation.texts.near_duplicates import PERMUTATIONS, NearDuplicates, Signed, bands, link_band, sign
from embedding_adaptation.texts.scripts import WORD_CHARACTERS, count_words
from embedding_adaptation.texts.stream import TextStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from embedding_adaptation.cluster.settings import ClusterSettings
    from embedding_adaptation.pipelines.data_augmentation.options import CleaningOptions
    from embedding_adaptation.texts.near_duplicates import LinkBands

REASONS = ("boilerplate", "too_short", "too_long", "language", "duplicate", "near_duplicate", "not_drawn")
_KEPT = 0  # other verdicts are 1 + the index in REASONS
_EXAMPLES = 3
_EXAMPLE_LENGTH = 200
_PARTITIONS = 64
_FORMAT = 1  # incremented when the same texts and options are judged otherwise
# How much faster a text is cleaned than embedded, for which min_texts is meant: few texts are done before workers have started.
_CLEANED_FASTER = 250
_LINKED_HERE = 2_000_000  # texts whose bands this process links sooner than a cluster starts to

# Control, format and surrogate characters, except white space, joiners (which shape letters and emoji) and visible format characters
# (Arabic number signs).
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0001\U000e0020-\U000e007f\ud800-\udfff]"
)
_SENTENCE = re.compile(
    rf".+?(?:(?<![.!?…؟۔।॥])[.!?…؟۔।॥]++[\"'”’»)\]]*+(?=[\s{WORD_CHARACTERS}])"  # the look-behind keeps runs of dots from being slow
    r"|[。！？]+[”’」』）]*|$)\s*"
)
_SHORTEST_SENTENCE = 3  # words; "Dr." and "e.g." are not sentences


def clean(
    corpus: TextStream, options: CleaningOptions, seed: int, cluster: ClusterSettings | None = None
) -> tuple[TextStream, dict[str, Any]]:
    """Normalise a corpus and leave out texts that are of no use for training.

    Invisible characters are removed, Unicode is composed (NFC), passages that match ``boilerplate`` or occur in more than ``max_repeats``
    texts are cut out, and white space is collapsed. Then a text is left out for the first of these reasons that applies:

    - ``boilerplate``: nothing is left of it;
    - ``too_short``, ``too_long``: in words (see :func:`~embedding_adaptation.texts.scripts.count_words`);
    - ``language``: it is, with sufficient confidence, in a language that was not requested;
    - ``duplicate``: it equals an earlier text, ignoring case;
    - ``near_duplicate``: it resembles an earlier text that was not left out itself (see :class:`~.near_duplicates.NearDuplicates`);
    - ``not_drawn``: it is not in the random draw, which depends only on the texts and the seed, not on the order of the corpus.

    The corpus is read two to four times, and once more whenever the result is read. Memory use is about 70 bytes per text; a temporary
    directory (see :mod:`tempfile` for its location) takes about 270 bytes per text during the search for near-duplicates, and 8 bytes per
    sentence while repeated ones are counted.

    Args:
        corpus: Texts with ``id`` and ``text``.
        options: Cleaning options.
        seed: Seed of the random draw.
        cluster: Where many texts are judged and signed; what depends on all of them is decided here. ``None`` does everything here.

    Returns:
        The clean texts that are kept, in the order of the corpus, and a report: the number of ``texts``, of those left out for each
        reason, of those ``kept`` and of those with ``cut_passages``; the ``identity`` of the ``clean`` and of the ``raw`` texts (see
        :class:`~embedding_adaptation.identity.TextsIdentity`); and original ``examples`` by reason, with the id of the earlier text that
        they are ``like``.

    Raises:
        AugmentationError: If fewer than two texts are left, or a language is unknown.
    """
    _check_languages(options.languages or ())
    if cluster is not None and not _has_texts(corpus, cluster.min_texts * _CLEANED_FASTER):
        cluster = None
    with _scratch(cluster) as folder:
        repeated = None if options.max_repeats is None else _repeated_passages(corpus, options, options.max_repeats, folder, cluster)
        cutter = _Cutter(options, repeated)
        search = NearDuplicates(folder, options.near_duplicates) if options.near_duplicates < 1 else None
        verdicts, digests, words, raw, cut = _judge(corpus, repeated, options, seed, search, cluster)
        passed = np.flatnonzero(verdicts == _KEPT)
        like = np.full(len(passed), -1, dtype=np.int64)  # for each text that passed, the index of the earlier one it equals or resembles
        later, earlier = _duplicates(digests[passed])
        like[later] = earlier
        verdicts[passed[later]] = _verdict("duplicate")
        if search:
            near = search.find(like >= 0, _linker(folder, cluster, len(passed)))
            is_near = near >= 0
            like[is_near] = near[is_near]
            verdicts[passed[is_near]] = _verdict("near_duplicate")
    kept = np.flatnonzero(verdicts == _KEPT)
    if options.max_texts is not None and len(kept) > options.max_texts:
        drawn = np.argpartition(digests[kept], options.max_texts - 1)
        verdicts[kept[drawn[options.max_texts :]]] = _verdict("not_drawn")
    counts = np.bincount(verdicts, minlength=len(REASONS) + 1).tolist()
    report = {"texts": len(verdicts), **dict(zip(REASONS, counts[1:], strict=True)), "kept": counts[_KEPT], "cut_passages": cut}
    if report["kept"] < 2:  # noqa: PLR2004  a pair needs another one as its negative
        raise AugmentationError(_too_few(report, options))
    clean_texts = TextsIdentity()
    clean_texts.add_words(words[verdicts == _KEPT].sum(axis=0, dtype=np.uint64))  # sums wrap at 2^64 by design
    report["identity"] = {"clean": clean_texts.hexdigest(), "raw": raw}
    report["examples"] = _examples(corpus, verdicts, passed, like)
    return _selected(corpus, cutter, verdicts == _KEPT), report


class _Cutter:
    """Normalises texts and cuts passages out of them."""

    def __init__(self, options: CleaningOptions, repeated: NDArray[np.uint64] | None = None) -> None:
        self._boilerplate = [re.compile(pattern) for pattern in options.boilerplate]
        self._repeated = repeated  # sorted digests; None keeps repeated passages

    def __call__(self, text: str) -> tuple[str, bool]:
        """The clean text, and whether a passage was cut out of it."""
        lines, is_cut = self.lines(text)
        if self._repeated is not None:
            remaining = "\n".join(_without_repeats(line, self._repeated) for line in lines.splitlines())
            is_cut |= len(remaining.split()) < len(lines.split())
            lines = remaining
        return " ".join(lines.split()), is_cut

    def lines(self, text: str) -> tuple[str, bool]:
        """The text before repeated passages are cut out and lines are joined, and whether boilerplate was cut out."""
        text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
        is_cut = False
        for pattern in self._boilerplate:
            remaining = pattern.sub(_gap, text)
            is_cut |= remaining != text
            text = remaining
        return text, is_cut


def _gap(match: re.Match[str]) -> str:
    """The replacement for a passage: nothing, or a space if two words would otherwise merge."""
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    return " " if match.group() and before.isalnum() and after.isalnum() else ""


def _without_repeats(line: str, repeated: NDArray[np.uint64]) -> str:
    if _is_repeated(line, repeated):
        return ""
    sentences = _SENTENCE.findall(line)
    return "".join(part for part in sentences if not (_is_passage(part, sentences) and _is_repeated(part, repeated)))


def _is_repeated(passage: str, repeated: NDArray[np.uint64]) -> bool:
    digest = np.uint64(_passage_digest(passage))
    position = np.searchsorted(repeated, digest)
    return bool(position < len(repeated) and repeated[position] == digest)


def _is_passage(sentence: str, sentences: list[str]) -> bool:
    return len(sentences) > 1 and count_words(sentence) >= _SHORTEST_SENTENCE


def _passage_digest(passage: str) -> int:
    return int.from_bytes(text_digest(" ".join(passage.lower().split()), 8), "big")


def _repeated_passages(
    corpus: TextStream, options: CleaningOptions, max_repeats: int, folder: Path, cluster: ClusterSettings | None
) -> NDArray[np.uint64]:
    """Sorted digests of the lines and sentences that occur in more than ``max_repeats`` texts.

    The digests of all passages are written to disk, partitioned by their first bits, so that each part can be counted in memory.
    """
    paths = [folder / f"passages{part}" for part in range(_PARTITIONS)]
    for digests in _each(corpus, PassageFinder, {"options": options}, cluster, "passages"):
        digests.sort()
        edges = np.searchsorted(digests, np.arange(1, _PARTITIONS, dtype=np.uint64) * np.uint64(2**64 // _PARTITIONS))
        for path, part in zip(paths, np.split(digests, edges), strict=True):
            with path.open("ab") as file:
                file.write(part.tobytes())
    repeated = []
    for path in paths:
        if path.exists():
            digests, counts = np.unique(np.fromfile(path, np.uint64), return_counts=True)
            repeated.append(digests[counts > max_repeats])
            path.unlink()
    return np.concatenate(repeated) if repeated else np.empty(0, np.uint64)


def _passages(lines: str) -> set[int]:
    """Digests of the lines and sentences of a text."""
    digests = set()
    for line in filter(str.strip, lines.splitlines()):
        digests.add(_passage_digest(line))
        sentences = _SENTENCE.findall(line)
        digests.update(_passage_digest(sentence) for sentence in sentences if _is_passage(sentence, sentences))
    return digests


def _check_languages(languages: Iterable[str]) -> None:
    unknown = [repr(language) for language in languages if language not in known_languages()]
    if unknown:
        msg = f"unknown language {', '.join(unknown)} in cleaning.languages; choose from {', '.join(known_languages())}"
        raise AugmentationError(msg)


def _judge(
    corpus: TextStream,
    repeated: NDArray[np.uint64] | None,
    options: CleaningOptions,
    seed: int,
    search: NearDuplicates | None,
    cluster: ClusterSettings | None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64], str, int]:
    """Judge each text by itself, and add those that are not left out to the search for near-duplicates.

    Returns:
        Verdicts ``[N]``, digests ``[N]`` (equal for duplicates), the words of the texts' identities ``[N, 2]``, the identity of the raw
        texts, and the number of texts from which something was cut.
    """
    verdicts, digests, words = [np.empty(0, np.uint8)], [np.empty(0, np.uint64)], [np.empty((0, 2), np.uint64)]
    identity, cut = TextsIdentity(), 0
    for judged in _each(corpus, TextJudge, {"options": options, "seed": seed, "repeated": repeated}, cluster, "clean"):
        identity.add_words(judged.raw.tolist())
        cut += judged.cut
        verdicts.append(judged.verdicts)
        digests.append(judged.digests)
        words.append(judged.words)
        if search is not None and judged.signed is not None:
            search.add_signed(judged.signed)
    return np.concatenate(verdicts), np.concatenate(digests), np.concatenate(words), identity.hexdigest(), cut


@dataclass(frozen=True)
class Judged:
    """What some texts say of themselves.

    Attributes:
        verdicts: ``[n]``.
        digests: ``[n]``; equal for texts that are equal, ignoring case.
        words: Those of the clean texts' identities, ``[n, 2]``.
        raw: The sum of those of the raw texts, ``[2]``.
        cut: Number of texts from which something was cut.
        signed: The texts that are not left out, for the search for near-duplicates; ``None`` if there is none.
    """

    verdicts: NDArray[np.uint8]
    digests: NDArray[np.uint64]
    words: NDArray[np.uint64]
    raw: NDArray[np.uint64]
    cut: int
    signed: Signed | None


class TextJudge:
    """Judges texts, each by itself.

    Args:
        options: Cleaning options.
        seed: Seed of the random draw.
        repeated: Sorted digests of passages to cut out; ``None`` keeps repeated passages.
    """

    def __init__(self, options: CleaningOptions, seed: int, repeated: NDArray[np.uint64] | None) -> None:
        self._cutter = _Cutter(options, repeated)
        self._options, self._seed = options, seed

    def of(self, texts: Iterable[str]) -> Judged:
        """Judge texts."""
        verdicts, digests, passed, cut = bytearray(), bytearray(), [], 0
        words, raw = [], np.zeros(2, np.uint64)
        for given in texts:
            text, is_cut = self._cutter(given)
            verdict = _verdict_on(text, self._options, is_cut=is_cut)
            cut += is_cut
            verdicts.append(verdict)
            words.append(text_words(text))
            raw += np.array(text_words(given), np.uint64)  # sums wrap at 2^64 by design
            digests += text_digest(f"{self._seed}/{text.lower()}", 8)
            if verdict == _KEPT:
                passed.append(text)
        similarity = self._options.near_duplicates
        return Judged(
            np.frombuffer(verdicts, np.uint8),
            np.frombuffer(digests, np.uint64),
            np.array(words, np.uint64).reshape(-1, 2),
            raw,
            cut,
            sign(passed, similarity) if similarity < 1 else None,
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        """Judge a table of texts: one row with the bytes of everything."""
        judged = self.of(as_texts(table["text"]))
        arrays: dict[str, NDArray[Any]] = {"verdicts": judged.verdicts, "digests": judged.digests, "words": judged.words, "raw": judged.raw}
        if judged.signed is not None:
            arrays |= {"signatures": judged.signed.signatures, "keys": judged.signed.keys}
        return pa.table({name: pa.array([array.tobytes()], pa.large_binary()) for name, array in arrays.items()} | {"cut": [judged.cut]})

    def read(self, table: pa.Table) -> Judged:
        """What :meth:`__call__` made."""
        content = {name: table[name][0].as_py() for name in table.column_names}
        signed = None
        if "keys" in content:
            count, _ = bands(self._options.near_duplicates)
            signatures = np.frombuffer(content["signatures"], np.uint8).reshape(-1, PERMUTATIONS)
            signed = Signed(signatures, np.frombuffer(content["keys"], np.uint32).reshape(-1, count))
        return Judged(
            np.frombuffer(content["verdicts"], np.uint8),
            np.frombuffer(content["digests"], np.uint64),
            np.frombuffer(content["words"], np.uint64).reshape(-1, 2),
            np.frombuffer(content["raw"], np.uint64),
            content["cut"],
            signed,
        )


class PassageFinder:
    """Finds the lines and sentences of texts.

    Args:
        options: Cleaning options.
    """

    def __init__(self, options: CleaningOptions) -> None:
        self._cutter = _Cutter(options)

    def of(self, texts: Iterable[str]) -> NDArray[np.uint64]:
        """Digests of the passages of all texts, each as often as it occurs in a text."""
        return np.fromiter((digest for text in texts for digest in _passages(self._cutter.lines(text)[0])), dtype=np.uint64)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Find the passages of a table of texts."""
        return pa.table({"digest": self.of(as_texts(table["text"]))})

    def read(self, table: pa.Table) -> NDArray[np.uint64]:
        """What :meth:`__call__` made."""
        return table["digest"].to_numpy().copy()


class BandLinker:
    """Links bands of the search for near-duplicates.

    Args:
        skip: File of what is left out already.
    """

    def __init__(self, skip: Path) -> None:
        self._skip = np.load(skip)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Link the bands whose files a table names."""
        for path in table["path"].to_pylist():
            link_band(Path(path), self._skip)
        return table


def _each(corpus: TextStream, kind: type[Any], arguments: dict[str, Any], cluster: ClusterSettings | None, name: str) -> Iterator[Any]:
    """What an object of this kind says of each piece of the corpus, in order; on a cluster, every worker has an object of its own."""
    here = kind(**arguments)
    if cluster is None:
        with tqdm(unit="text", desc=name) as bar:
            for piece in corpus.pieces():
                yield here.of(piece["text"])
                bar.update(len(piece))
        return
    tables = (pa.table({"text": as_bytes(piece["text"])}) for piece in corpus.pieces())
    identity = [name, _FORMAT, *(value if isinstance(value, np.ndarray) else repr(value) for value in arguments.values())]
    for made in work_through(tables, kind, arguments, cluster, name=name, identity=identity):
        yield here.read(made)


def _linker(folder: Path, cluster: ClusterSettings | None, texts: int) -> LinkBands | None:
    """Links bands on the cluster, if it pays."""
    if cluster is None or texts < _LINKED_HERE:
        return None

    def link(paths: list[Path], skip: NDArray[np.bool_]) -> None:
        left_out = folder / "left_out.npy"
        np.save(left_out, skip)
        tables = (pa.table({"path": [str(path)]}) for path in paths)
        for _ in work_through(tables, BandLinker, {"skip": left_out}, cluster, name="duplicates", identity=["duplicates", str(folder)]):
            pass

    return link


def _has_texts(corpus: TextStream, count: int) -> bool:
    for piece in corpus.pieces():
        count -= len(piece)
        if count <= 0:
            return True
    return False


@contextmanager
def _scratch(cluster: ClusterSettings | None) -> Iterator[Path]:
    """A temporary folder, which a cluster's machines see."""
    if cluster is None:
        with TemporaryDirectory(prefix=scratch_prefix()) as name:
            yield Path(name)
        return
    cluster.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{scratch_prefix()}", dir=cluster.folder, ignore_cleanup_errors=True) as name:
        yield Path(name).absolute()


def _duplicates(digests: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the digests that equal an earlier one, and of the first one that each of them equals."""
    order = digests.argsort(kind="stable")
    in_order = digests[order]
    is_later = np.zeros(len(order), dtype=bool)
    is_later[1:] = in_order[1:] == in_order[:-1]
    del in_order
    firsts = np.arange(len(order))
    firsts[is_later] = 0
    np.maximum.accumulate(firsts, out=firsts)
    return order[is_later], order[firsts[is_later]]


def _verdict_on(text: str, options: CleaningOptions, *, is_cut: bool) -> int:
    if not text and is_cut:
        return _verdict("boilerplate")
    words = count_words(text)
    if words < options.min_words:
        return _verdict("too_short")
    if options.max_words is not None and words > options.max_words:
        return _verdict("too_long")
    if options.languages:
        language, confidence = identify_language(text)
        if language and language not in options.languages and confidence >= options.language_confidence:
            return _verdict("language")
    return _KEPT


def _verdict(reason: str) -> int:
    return REASONS.index(reason) + 1


def _too_few(report: dict[str, Any], options: CleaningOptions) -> str:
    reasons = {
        "boilerplate": ("nothing but boilerplate", "cut less with cleaning.boilerplate and cleaning.max_repeats"),
        "too_short": (f"shorter than {options.min_words} words", "lower cleaning.min_words"),
        "too_long": (f"longer than {options.max_words} words", "raise cleaning.max_words"),
        "language": (f"not in {', '.join(options.languages or ())}", "add to cleaning.languages"),
        "duplicate": ("duplicates", ""),
        "near_duplicate": ("near-duplicates", "raise cleaning.near_duplicates"),
    }
    causes = [(f"{report[reason]} {cause}", remedy) for reason, (cause, remedy) in reasons.items() if report[reason]]
    counts = f" ({', '.join(cause for cause, _ in causes)})" if causes else ""
    remedies = ["give a larger corpus", *(remedy for _, remedy in causes if remedy)]
    return f"of {report['texts']} corpus texts {report['kept']} are left after cleaning{counts}; {' or '.join(remedies)}"


def _examples(
    corpus: TextStream, verdicts: NDArray[np.uint8], passed: NDArray[np.int64], like: NDArray[np.int64]
) -> dict[str, list[dict[str, str]]]:
    """The first texts left out for each reason, by reason."""
    rows = [row for reason in REASONS for row in np.flatnonzero(verdicts == _verdict(reason))[:_EXAMPLES].tolist()]
    originals = {}
    for row in rows:
        if REASONS[verdicts[row] - 1] in {"duplicate", "near_duplicate"}:
            originals[row] = int(passed[like[np.searchsorted(passed, row)]])
    needed = {*rows, *originals.values()}
    texts: dict[int, tuple[str, str]] = {}
    for row, (text_id, text) in enumerate(corpus.rows() if needed else ()):
        if row in needed:
            texts[row] = (text_id, text[:_EXAMPLE_LENGTH])
            if len(texts) == len(needed):
                break
    examples: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        example = dict(zip(("id", "text"), texts[row], strict=True))
        if row in originals:
            example["like"] = texts[originals[row]][0]
        examples.setdefault(REASONS[verdicts[row] - 1], []).append(example)
    return examples


def _selected(corpus: TextStream, cutter: _Cutter, kept: NDArray[np.bool_]) -> TextStream:
    """The clean texts of some rows."""

    def pieces() -> Iterator[pd.DataFrame]:
        start = 0
        for piece in corpus.pieces():
            rows = piece[kept[start : start + len(piece)]]
            start += len(piece)
            if len(rows):
                yield pd.DataFrame({"id": rows["id"].tolist(), "text": [cutter(text)[0] for text in rows["text"]]}, dtype=str)

    return TextStream(pieces)
