"""Does attention show what matters? The effect of removing words one by one, compared with the attention they get."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from embedding_adaptation.attention.comparison import ALL, PairingError
from embedding_adaptation.attention.shares import Spans
from embedding_adaptation.attention.statistics import paired_bootstrap, rank_correlation
from embedding_adaptation.attention.words import prompt_words, split_words
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.texts.function_words import FUNCTION_WORDS

if TYPE_CHECKING:
    from embedding_adaptation.attention.rows import AttentionRows
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.template import PromptTemplate

TOKENS = "tokens"
# Fewer words are too few to rank; beyond the maximum, another text is more informative than another word.
_FEWEST_WORDS, _MOST_WORDS = 4, 12


def occlude_words(
    embedder: Embedder,
    template: PromptTemplate,
    texts: Sequence[str],
    ids: Sequence[str],
    *,
    function_words: Collection[str] = FUNCTION_WORDS,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how far the last token's vector moves when a word of the text is removed.

    Args:
        embedder: Base or adapted embedder.
        template: The template the texts are put into.
        texts: Texts; those with fewer than four words are skipped.
        ids: Their ids.
        function_words: Words that do not count as content words.
        seed: Seed for drawing twelve words from a text that has more.
        progress: Whether to show a progress bar on stderr.

    Returns:
        One row per removed word: ``id``, ``start``, ``end``, ``word``, ``kind`` and ``effect``, one minus the cosine similarity of the
        vectors with and without it.

    References:
        Occlusion: https://arxiv.org/abs/1311.2901; attention is not explanation: https://arxiv.org/abs/1902.10186
    """
    random = np.random.default_rng(seed)
    entries: list[tuple[str, int, int, str, str]] = []
    shortened: list[str] = []
    wholes: list[int] = []
    kept: list[str] = []
    for text_id, text in zip(ids, texts, strict=True):
        words = [word for word in split_words(text, function_words) if word.kind != "punctuation"]
        if len(words) < _FEWEST_WORDS:
            continue
        if len(words) > _MOST_WORDS:
            words = [words[place] for place in np.sort(random.choice(len(words), _MOST_WORDS, replace=False))]
        for word in words:
            entries.append((text_id, word.start, word.end, word.text, word.kind))
            shortened.append(_without(text, word.start, word.end))
            wholes.append(len(kept))
        kept.append(text)
    table = pd.DataFrame(entries, columns=["id", "start", "end", "word", "kind"])
    if not entries:
        return table.assign(effect=np.zeros(0))
    vectors = embedder.encode([*kept, *shortened], Strategy("occlusion", template, "last"), progress=progress)  # [n + W, D]
    whole, without = vectors[: len(kept)][wholes], vectors[len(kept) :]  # [W, D]
    return table.assign(effect=1.0 - (whole.astype(np.float64) * without).sum(axis=1))


def _without(text: str, start: int, end: int) -> str:
    before, after = text[:start], text[end:]
    if not before:
        return after.lstrip()
    return before + after if after[:1].isalnum() else before.rstrip() + after


def word_ranks(rows: AttentionRows, occlusion: pd.DataFrame, spans: Spans) -> pd.DataFrame:
    """Compute for each text how well the ranking of its words by attention agrees with that by occlusion.

    Args:
        rows: The recording that contains the texts.
        occlusion: The result of :func:`occlude_words` for the same weights.
        spans: Defines sink and self.

    Returns:
        One row per text: ``id``, Spearman's rank correlation for each layer (averaged over heads), for ``all`` layers, and for ``tokens``:
        that of a word's number of tokens, a baseline without attention.

    Raises:
        PairingError: If a text of the occlusion is not in the recording.
    """
    by_text = {str(text_id): effects for text_id, effects in occlusion.groupby("id", sort=False)}
    table = []
    for one in islice(rows, rows.examples, None):
        if one.id not in by_text:
            continue
        occluded = by_text.pop(one.id)
        words = prompt_words(rows, one, spans.function_words, sink_tokens=spans.sink_tokens, separate_self=spans.separate_self)
        places = {(word.start, word.end): word for word in words if word.part == "text"}
        # Words after the cut are not in the prompt.
        both = [
            (places[key], effect)
            for *key_, effect in occluded[["start", "end", "effect"]].to_numpy()
            if (key := tuple(map(int, key_))) in places
        ]
        if not both:
            continue
        effects = np.array([effect for _, effect in both])  # [W]
        weights = np.stack([word.weights for word, _ in both])  # [W, T]
        attention = np.asarray(one.row).mean(axis=1, dtype=np.float64) @ weights.T  # [L, W]
        correlations = {str(layer): rank_correlation(values, effects) for layer, values in zip(rows.layers, attention, strict=True)}
        correlations[ALL] = rank_correlation(attention.mean(axis=0), effects)
        table.append({"id": one.id, **correlations, TOKENS: rank_correlation(weights.sum(axis=1), effects)})
    if by_text:
        msg = f"text {next(iter(by_text))!r} was occluded but its attention was not recorded; run the whole attention_analysis pipeline"
        raise PairingError(msg)
    return pd.DataFrame(table, columns=["id", *map(str, rows.layers), ALL, TOKENS])


def compare_faithfulness(base: pd.DataFrame, adapted: pd.DataFrame, **bootstrap: Any) -> pd.DataFrame:
    """Compute the mean rank correlation of attention and occlusion for base and adapted.

    Args:
        base: The result of :func:`word_ranks` for the base model.
        adapted: The same for the adapted model.
        **bootstrap: Options of :func:`paired_bootstrap`.

    Returns:
        One row per layer, ``all`` and ``tokens``: number of ``texts``; ``base``, ``adapted`` and ``shift``, means over texts, each with its
        interval (``_low``, ``_high``).

    Raises:
        PairingError: If the two are not of the same texts.
    """
    if base["id"].tolist() != adapted["id"].tolist():
        msg = "base and adapted were occluded on different texts; run the whole attention_analysis pipeline"
        raise PairingError(msg)
    names = [column for column in base.columns if column != "id"]
    before, after = base[names].to_numpy(np.float64), adapted[names].to_numpy(np.float64)  # [N, L + 2]
    table = pd.DataFrame({"layer": names, "texts": np.sum(~np.isnan(before), axis=0)})
    for name, values in (("base", before), ("adapted", after), ("shift", after - before)):
        if len(values):
            mean, low, high = paired_bootstrap(values, **bootstrap)
        else:
            mean = low = high = np.full(len(names), np.nan)
        table[name], table[f"{name}_low"], table[f"{name}_high"] = mean.round(4), low.round(4), high.round(4)
    return table
