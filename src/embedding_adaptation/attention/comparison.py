"""Base and adapted on the same texts: paired differences by layer, head and word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from embedding_adaptation.attention.shares import DERIVED, KEYS
from embedding_adaptation.attention.statistics import paired_bootstrap

# What figures and reports call each measure.
TITLES = {
    "sink": "first token (sink)",
    "prefix": "template before the text",
    "text": "the text",
    "suffix": "template behind the text",
    "self": "the last token itself",
    "content": "content words",
    "function": "function words",
    "number": "numbers",
    "punctuation": "punctuation",
    "entropy": "entropy of the row",
    "text_without_sink": "the text, sink left out",
}
ALL = "all"
_HEAD_MEASURES = ("text", "content", "sink")


class PairingError(ValueError):
    """Measurements that do not belong together; the message says in what they differ."""


def layer_values(shares: pd.DataFrame) -> tuple[np.ndarray, list[str], list[str]]:
    """Measures of each text by layer, and over all layers.

    Args:
        shares: A row for each text, layer and head, as :func:`measure_rows` gives them.

    Returns:
        ``[N, L + 1, M]``, the names of the layers (the last is ``all``) and of the measures, the :data:`DERIVED` ones included.
    """
    values, layers, _, measures = _cube(shares)
    means = np.concatenate([values.mean(axis=2), values.mean(axis=(1, 2))[:, None]], axis=1)  # [N, L + 1, M]
    text, sink, content = (means[..., measures.index(name)] for name in ("text", "sink", "content"))  # [N, L + 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        derived = np.stack([text / (1 - sink), content / text], axis=-1)  # [N, L + 1, 2]
    derived[~np.isfinite(derived)] = np.nan
    return np.concatenate([means, derived], axis=-1), [*map(str, layers), ALL], [*measures, *DERIVED]


def compare_layers(base: pd.DataFrame, adapted: pd.DataFrame, **bootstrap: Any) -> pd.DataFrame:
    """Mean shift of every measure in every layer.

    Args:
        base: Shares of the base model, a row for each text, layer and head.
        adapted: Shares of the adapted model on the same texts.
        **bootstrap: Options of :func:`paired_bootstrap`.

    Returns:
        A row for each layer (and ``all``) and measure: ``base`` and ``adapted``, means over texts and heads; ``shift``, the mean of the
        paired differences, with its interval ``shift_low`` to ``shift_high``.

    Raises:
        PairingError: If the two are not of the same texts, layers and heads.
    """
    check_pairing(base, adapted)
    before, layers, measures = layer_values(base)
    after, _, _ = layer_values(adapted)
    shift, low, high = paired_bootstrap((after - before).reshape(len(before), -1), **bootstrap)
    there = ~np.isnan(before) & ~np.isnan(after)  # [N, L + 1, M]
    with np.errstate(invalid="ignore"):
        means = [np.where(there, side, 0).sum(axis=0) / there.sum(axis=0) for side in (before, after)]  # [L + 1, M]
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
    """Heads by how much their attention to the text changed, the most first.

    Args:
        base: Shares of the base model.
        adapted: Shares of the adapted model on the same texts.
        **bootstrap: Options of :func:`paired_bootstrap`.

    Returns:
        A row a head with ``layer`` and ``head``; for text, content and sink the means of base and adapted over texts, and the mean
        shift with its interval.

    Raises:
        PairingError: If the two are not of the same texts, layers and heads.
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
    """Words of the texts by the attention they gained, the largest gain first.

    Args:
        base: Attention on each word under the base model, as :func:`measure_words` gives it.
        adapted: The same under the adapted model.
        min_texts: Words in fewer texts are left out.
        **bootstrap: Options of :func:`paired_bootstrap`.

    Returns:
        A row a word in lower case: its commonest ``kind``, the number of ``texts``; ``base`` and ``adapted``, the mean attention on one
        occurrence; ``shift`` with its interval.

    Raises:
        PairingError: If the two are not of the same texts.
    """
    words = paired_words(base, adapted)
    words = words[(words["part"] == "text") & ~words["example"] & (words["kind"] != "punctuation")]
    words = words.assign(word=words["word"].str.casefold())
    by_text = words.groupby(["word", "id"], sort=True, as_index=False).agg(
        base=("base", "mean"), adapted=("adapted", "mean"), kind=("kind", "first")
    )
    rows = []
    for word, found in by_text.groupby("word"):
        if len(found) < min_texts:
            continue
        shift, low, high = (
            float(value[0]) for value in paired_bootstrap((found["adapted"] - found["base"]).to_numpy()[:, None], **bootstrap)
        )
        means = found[["base", "adapted"]].mean()
        rows.append((word, found["kind"].mode()[0], len(found), means["base"], means["adapted"], shift, low, high))
    table = pd.DataFrame(rows, columns=["word", "kind", "texts", "base", "adapted", "shift", "shift_low", "shift_high"])
    return table.round(5).sort_values(["shift", "word"], ascending=[False, True], ignore_index=True)


def paired_words(base: pd.DataFrame, adapted: pd.DataFrame) -> pd.DataFrame:
    """Words with the attention of both models: the columns of ``base`` without ``attention``, but ``base`` and ``adapted``.

    Raises:
        PairingError: If the two are not of the same texts.
    """
    same = len(base) == len(adapted) and all(np.array_equal(base[key], adapted[key]) for key in ("id", "place", "part", "word"))
    if not same:
        msg = "the words of base and adapted come from different texts; run the whole attention_analysis pipeline"
        raise PairingError(msg)
    return base.rename(columns={"attention": "base"}).assign(adapted=adapted["attention"].to_numpy())


def check_pairing(base: pd.DataFrame, adapted: pd.DataFrame) -> None:
    """Check that two measurements are of the same texts, layers, heads and measures.

    Raises:
        PairingError: If they are not; the message says in what they differ.
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
