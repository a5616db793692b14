"""Clean a corpus of any length: cut passages out of texts and leave texts out."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.identity import TextsIdentity, text_digest, text_words
from embedding_adaptation.pipelines.data_augmentation.errors import AugmentationError
from embedding_adaptation.texts.language import identify_language, known_languages
from embedding_adaptation.texts.near_duplicates import NearDuplicates
from embedding_adaptation.texts.scripts import WORD_CHARACTERS, count_words
from embedding_adaptation.texts.stream import TextStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from embedding_adaptation.pipelines.data_augmentation.options import CleaningOptions

REASONS = ("boilerplate", "too_short", "too_long", "language", "duplicate", "near_duplicate", "not_drawn")
_KEPT = 0  # other verdicts are 1 + the index in REASONS
_EXAMPLES = 3
_EXAMPLE_LENGTH = 200
_PARTITIONS = 64

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


def clean(corpus: TextStream, options: CleaningOptions, seed: int) -> tuple[TextStream, dict[str, Any]]:
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

    Returns:
        The clean texts that are kept, in the order of the corpus, and a report: the number of ``texts``, of those left out for each
        reason, of those ``kept`` and of those with ``cut_passages``; the ``identity`` of the ``clean`` and of the ``raw`` texts (see
        :class:`~embedding_adaptation.identity.TextsIdentity`); and original ``examples`` by reason, with the id of the earlier text that
        they are ``like``.

    Raises:
        AugmentationError: If fewer than two texts are left, or a language is unknown.
    """
    _check_languages(options.languages or ())
    with TemporaryDirectory(prefix=scratch_prefix()) as folder:
        repeated = None if options.max_repeats is None else _repeated_passages(corpus, options, options.max_repeats, Path(folder))
        cutter = _Cutter(options, repeated)
        search = NearDuplicates(Path(folder), options.near_duplicates) if options.near_duplicates < 1 else None
        verdicts, digests, words, raw, cut = _judge(corpus, cutter, options, seed, search)
        passed = np.flatnonzero(verdicts == _KEPT)
        like = np.full(len(passed), -1, dtype=np.int64)  # for each text that passed, the index of the earlier one it equals or resembles
        later, earlier = _duplicates(digests[passed])
        like[later] = earlier
        verdicts[passed[later]] = _verdict("duplicate")
        if search:
            near = search.find(like >= 0)
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


def _repeated_passages(corpus: TextStream, options: CleaningOptions, max_repeats: int, folder: Path) -> NDArray[np.uint64]:
    """Sorted digests of the lines and sentences that occur in more than ``max_repeats`` texts.

    The digests of all passages are written to disk, partitioned by their first bits, so that each part can be counted in memory.
    """
    cutter = _Cutter(options)
    paths = [folder / f"passages{part}" for part in range(_PARTITIONS)]
    for piece in corpus.pieces():
        digests = np.fromiter((digest for text in piece["text"] for digest in _passages(cutter.lines(text)[0])), dtype=np.uint64)
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
    cutter: _Cutter,
    options: CleaningOptions,
    seed: int,
    search: NearDuplicates | None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64], str, int]:
    """Judge each text by itself, and add those that are not left out to the search for near-duplicates.

    Returns:
        Verdicts ``[N]``, digests ``[N]`` (equal for duplicates), the words of the texts' identities ``[N, 2]``, the identity of the raw
        texts, and the number of texts from which something was cut.
    """
    verdicts, digests, words = [np.empty(0, np.uint8)], [np.empty(0, np.uint64)], [np.empty((0, 2), np.uint64)]
    identity, cut = TextsIdentity(), 0
    with tqdm(unit="text", desc="clean") as bar:
        for piece in corpus.pieces():
            piece_verdicts, piece_digests = bytearray(), bytearray()
            piece_words = np.empty((len(piece), 2), np.uint64)
            identity.update(piece["text"])
            for row, raw in enumerate(piece["text"]):
                text, is_cut = cutter(raw)
                cut += is_cut
                verdict = _verdict_on(text, options, is_cut=is_cut)
                piece_verdicts.append(verdict)
                piece_words[row] = text_words(text)
                piece_digests += text_digest(f"{seed}/{text.lower()}", 8)
                if search and verdict == _KEPT:
                    search.add(text)
            verdicts.append(np.frombuffer(piece_verdicts, np.uint8))
            digests.append(np.frombuffer(piece_digests, np.uint64))
            words.append(piece_words)
            bar.update(len(piece))
    return np.concatenate(verdicts), np.concatenate(digests), np.concatenate(words), identity.hexdigest(), cut


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
