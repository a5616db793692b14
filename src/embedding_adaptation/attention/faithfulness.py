"""Does attention tell what matters? Words left out one by one, against the attention they get."""

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
# With fewer words there is hardly a rank to correlate; beyond, another text says more than another word.
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
    """How far the last token's vector moves when a word of the text is left out.

    Args:
        embedder: Base or adapted embedder.
        template: The template the texts are put into.
        texts: Texts; those with fewer than four words are passed over.
        ids: Their ids.
        function_words: Words that are no content words.
        seed: Seed of the draw where a text has more than twelve words: this many are left out, one at a time.
        progress: Whether to show a bar on stderr.

    Returns:
        A row for each word left out: ``id``, ``start``, ``end``, ``word``, ``kind`` and ``effect``, one minus the cosine of the vectors
        with and without it.

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
    """For each text, how the ranking of its words by attention agrees with that by occlusion.

    Args:
        rows: The recording the texts are in.
        occlusion: What :func:`occlude_words` gave for the same weights.
        spans: What is sink and self.

    Returns:
        A row a text: ``id``, Spearman's rank correlation for each layer (mean over heads), for ``all`` layers, and for ``tokens``: that of
        the number of tokens a word has, which needs no attention.

    Raises:
        PairingError: If a text of the occlusion is not in the recording.
    """
    by_text = {str(text_id): found for text_id, found in occlusion.groupby("id", sort=False)}
    table = []
    for one in islice(rows, rows.examples, None):
        if one.id not in by_text:
            continue
        found = by_text.pop(one.id)
        words = prompt_words(rows, one, spans.function_words, sink_tokens=spans.sink_tokens, separate_self=spans.separate_self)
        places = {(word.start, word.end): word for word in words if word.part == "text"}
        # Words behind the cut are in no prompt.
        both = [
            (places[key], effect)
            for *key_, effect in found[["start", "end", "effect"]].to_numpy()
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
    """Mean rank correlation of attention and occlusion, base and adapted.

    Args:
        base: What :func:`word_ranks` gave for the base model.
        adapted: The same for the adapted model.
        **bootstrap: Options of :func:`paired_bootstrap`.

    Returns:
        A row a layer, ``all`` and ``tokens``: number of ``texts``; ``base``, ``adapted`` and ``shift``, means over texts, each with its
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
