"""Comparison of the base and the adapted model on the same texts: paired differences by layer, head and word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from embedding_adaptation.attention.shares import DERIVED, KEYS
from embedding_adaptation.attention.statistics import paired_bootstrap

# Names of the measures in figures and reports.
TITLES = {
    "sink": "first token (sink)",
    "prefix": "template before the text",
    "text": "the text",
    "suffix": "template after the text",
    "self": "the last token itself",
    "content": "content words",
    "function": "function words",
    "number": "numbers",
    "punctuation": "punctuation",
    "entropy": "entropy of the row",
    "text_without_sink": "the text, excluding the sink",
}
ALL = "all"
_HEAD_MEASURES = ("text", "content", "sink")


class PairingError(ValueError):
    """Measurements that do not match; the message says how they differ."""


def layer_values(shares: pd.DataFrame) -> tuple[np.ndarray, list[str], list[str]]:
    """Measures of each text by layer, and averaged over all layers.

    Args:
        shares: One row per text, layer and head, from :func:`measure_rows`.

    Returns:
        ``[N, L + 1, M]``, the names of the layers (the last is ``all``) and of the measures, including the :data:`DERIVED` ones.
    """
    values, layers, _, measures = _cube(shares)
    means = np.concatenate([values.mean(axis=2), values.mean(axis=(1, 2))[:, None]], axis=1)  # [N, L + 1, M]
    text, sink, content = (means[..., measures.index(name)] for name in ("text", "sink", "content"))  # [N, L + 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        derived = np.stack([text / (1 - sink), content / text], axis=-1)  # [N, L + 1, 2]
    derived[~np.isfinite(derived)] = np.nan
    return np.concatenate([means, derived], axis=-1), [*map(str, layers), ALL], [*measures, *DERIVED]


def compare_layers(base: pd.DataFrame, adapted: pd.DataFrame, **bootstrap: Any) -> pd.DataFrame:
    """Compute the mean shift of every measure in every layer.

    Args:
        base: Shares of the base model, one row per text, layer and head.
        adapted: Shares of the adapted model on the same texts.
        **bootstrap: Options of :func:`paired_bootstrap`.

    Returns:
        One row per layer (and ``all``) and measure: ``base`` and ``adapted``, means over texts and heads; ``shift``, the mean of the paired
        differences, with its interval ``shift_low`` to ``shift_high``.

    Raises:
        PairingError: If the two differ in texts, layers or heads.
    """
    check_pairing(base, adapted)
    before, layers, measures = layer_values(base)
    after, _, _ = layer_values(adapted)
    shift, low, high = paired_bootstrap((after - before).reshape(len(before), -1), **bootstrap)
    known = ~np.isnan(before) & ~np.isnan(after)  # [N, L + 1, M]
    with np.errstate(invalid="ignore"):
        means = [np.where(known, side, 0).sum(axis=0) / known.sum(axis=0) for side in (before, after)]  # [L + 1, M]
    return pd.DataFrame(
        {
            "layer": np.repeat(layers, len(measures)),
            "measure": measures * len(layers),
            "base": means[0].ravel().round(5),
            "adapted": means[1].ravel().round(5),
            "shift": shift.round(5),
            "shift_low": low.round(5),
            "shift_high": high.round(5),
        }
    )


def compare_heads(base: pd.DataFrame, adapted: pd.DataFrame, **bootstrap: Any) -> pd.DataFrame:
    """Rank heads by how much their attention to the text changed, largest change first.

    Args:
        base: Shares of the base model.
        adapted: Shares of the adapted model on the same texts.
        **bootstrap: Options of :func:`paired_bootstrap`.

    Returns:
        One row per head with ``layer`` and ``head``; for text, content and sink the means of base and adapted over texts, and the mean
        shift with its interval.

    Raises:
        PairingError: If the two differ in texts, layers or heads.
    """
    check_pairing(base, adapted)
    before, layers, heads, measures = _cube(base)
    after = _cube(adapted)[0]
    table = pd.DataFrame({"layer": np.repeat(layers, len(heads)), "head": np.tile(heads, len(layers))})
    for name in _HEAD_MEASURES:
        one, other = (side[..., measures.index(name)].reshape(len(side), -1) for side in (before, after))  # [N, L H]
        shift, low, high = paired_bootstrap(other - one, **bootstrap)
        columns = {"base": one.mean(axis=0), "adapted": other.mean(axis=0), "shift": shift, "shift_low": low, "shift_high": high}
        for column, values in columns.items():
            table[f"{name}_{column}"] = values.round(5)
    return table.sort_values("text_shift", key=np.abs, ascending=False, ignore_index=True)


def compare_words(base: pd.DataFrame, adapted: pd.DataFrame, *, min_texts: int = 3, **bootstrap: Any) -> pd.DataFrame:
    """Rank words of the texts by the attention they gained, largest gain first.

    Args:
        base: Attention of the base model on each word, from :func:`measure_words`.
        adapted: The same for the adapted model.
        min_texts: Words in fewer texts are omitted.
        **bootstrap: Options of :func:`paired_bootstrap`.

    Returns:
        One row per word in lower case: its most common ``kind``, the number of ``texts``; ``base`` and ``adapted``, the mean attention per
        occurrence; ``shift`` with its interval.

    Raises:
        PairingError: If the two are of different texts.
    """
    words = paired_words(base, adapted)
    words = words[(words["part"] == "text") & ~words["example"] & (words["kind"] != "punctuation")]
    words = words.assign(word=words["word"].str.casefold())
    by_text = words.groupby(["word", "id"], sort=True, as_index=False).agg(
        base=("base", "mean"), adapted=("adapted", "mean"), kind=("kind", "first")
    )
    rows = []
    for word, texts in by_text.groupby("word"):
        if len(texts) < min_texts:
            continue
        shift, low, high = (
            float(value[0]) for value in paired_bootstrap((texts["adapted"] - texts["base"]).to_numpy()[:, None], **bootstrap)
        )
        means = texts[["base", "adapted"]].mean()
        rows.append((word, texts["kind"].mode()[0], len(texts), means["base"], means["adapted"], shift, low, high))
    table = pd.DataFrame(rows, columns=["word", "kind", "texts", "base", "adapted", "shift", "shift_low", "shift_high"])
    return table.round(5).sort_values(["shift", "word"], ascending=[False, True], ignore_index=True)


def paired_words(base: pd.DataFrame, adapted: pd.DataFrame) -> pd.DataFrame:
    """Words with the attention of both models: the columns of ``base``, with ``base`` and ``adapted`` in place of ``attention``.

    Raises:
        PairingError: If the two are of different texts.
    """
    same = len(base) == len(adapted) and all(np.array_equal(base[key], adapted[key]) for key in ("id", "place", "part", "word"))
    if not same:
        msg = "the words of base and adapted come from different texts; run the whole attention_analysis pipeline"
        raise PairingError(msg)
    return base.rename(columns={"attention": "base"}).assign(adapted=adapted["attention"].to_numpy())


def check_pairing(base: pd.DataFrame, adapted: pd.DataFrame) -> None:
    """Check that two measurements have the same texts, layers, heads and measures.

    Raises:
        PairingError: If they do not; the message says how they differ.
    """
    if list(base.columns) != list(adapted.columns):
        differing = sorted(set(base.columns) ^ set(adapted.columns))
        msg = f"base and adapted were measured differently ({', '.join(differing)}); run the whole attention_analysis pipeline"
        raise PairingError(msg)
    for key in KEYS:
        if len(base) != len(adapted) or not np.array_equal(base[key], adapted[key]):
            sizes = f"{base[key].nunique()} and {adapted[key].nunique()}"
            msg = f"base and adapted were measured on different {key}s ({sizes}); run the whole attention_analysis pipeline"
            raise PairingError(msg)


def _cube(shares: pd.DataFrame) -> tuple[np.ndarray, list[int], list[int], list[str]]:
    """Measures as ``[N, L, H, M]``, and the names of layers, heads and measures."""
    layers, heads = (sorted(int(value) for value in shares[key].unique()) for key in ("layer", "head"))
    measures = [column for column in shares.columns if column not in KEYS]
    values = shares[measures].to_numpy(np.float64).reshape(-1, len(layers), len(heads), len(measures))
    return values, layers, heads, measures
