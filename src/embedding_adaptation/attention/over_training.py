"""Attention over the checkpoints of one run, compared with their quality."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.attention.comparison import ALL, layer_values
from embedding_adaptation.attention.recording import record_attention
from embedding_adaptation.attention.shares import Spans, measure_rows
from embedding_adaptation.attention.statistics import bootstrapped_rank_correlation, paired_bootstrap
from embedding_adaptation.checkpoint_folders import CheckpointError
from embedding_adaptation.embedder.checkpoint import ADAPTER_CONFIG

if TYPE_CHECKING:
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.template import PromptTemplate
    from embedding_adaptation.embedder.weights import DecoderWeights

_FEWEST_STEPS = 3


def attention_over_training(
    base: DecoderWeights,
    checkpoints: Mapping[int, Path],
    load: Callable[[DecoderWeights], Embedder],
    template: PromptTemplate,
    texts: Sequence[str],
    *,
    spans: Spans | None = None,
    layers: Sequence[int] = (),
    heads: Sequence[int] = (),
    progress: bool = True,
    **bootstrap: Any,
) -> pd.DataFrame:
    """Compute every measure in every layer at every checkpoint on the same texts, with one checkpoint in memory at a time.

    Args:
        base: The base model, which is step 0.
        checkpoints: Adapter folders by step.
        load: Loads an embedder with the given weights.
        template: The template the texts are put into.
        texts: The texts.
        spans: How the rows are divided; ``None`` is the default division.
        layers: Layers to record; empty records all.
        heads: Heads to record; empty records all.
        progress: Whether to show a progress bar for each checkpoint.
        **bootstrap: Options of :func:`paired_bootstrap`.

    Returns:
        One row per ``step``, ``layer`` (and ``all``) and ``measure``: ``mean`` over texts with its interval ``low`` to ``high``; ``shift``,
        the mean paired difference from step 0, with its interval.

    Raises:
        CheckpointError: If a checkpoint is missing, or there is none other than step 0.
    """
    folders = {int(step): Path(path) for step, path in sorted(checkpoints.items()) if int(step) != 0}
    if not folders:
        msg = "there is no checkpoint other than step 0, the base model; give at least one"
        raise CheckpointError(msg)
    for step, path in folders.items():
        if not (path / ADAPTER_CONFIG).is_file():
            msg = f"the checkpoint of step {step} is missing: {path} contains no {ADAPTER_CONFIG}; train again, or choose other steps"
            raise CheckpointError(msg)
    tables, first = [], None
    weights = {0: replace(base, adapter=None), **{step: replace(base, adapter=path) for step, path in folders.items()}}
    for step, step_weights in weights.items():
        embedder = load(step_weights)
        with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as work:
            rows = record_attention(
                embedder, template, texts, Path(work) / "rows", layers=layers, heads=heads, progress=progress
            )  # fmt: skip
            shares = pd.concat(list(measure_rows(rows, spans or Spans())), ignore_index=True)
        values, names, measures = layer_values(shares)  # [N, L + 1, M]
        flat = values.reshape(len(values), -1)  # [N, (L + 1) M]
        first = flat if first is None else first
        table = pd.DataFrame({"step": step, "layer": np.repeat(names, len(measures)), "measure": measures * len(names)})
        for columns, sample in ((("mean", "low", "high"), flat), (("shift", "shift_low", "shift_high"), flat - first)):
            for column, numbers in zip(columns, paired_bootstrap(sample, **bootstrap), strict=True):
                table[column] = numbers.round(5)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def relate_to_quality(
    over_training: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    quality: str = "v_measure",
    measures: Sequence[str] = ("text", "content", "text_without_sink", "text_relative", "sink", "entropy"),
    **bootstrap: Any,
) -> pd.DataFrame:
    """Relate attention to quality over the checkpoints, and compute what stopping by attention would have cost.

    Each signal, a measure of attention over all layers or another column of the scores, is correlated with the quality over their common
    steps. The steps of its highest and lowest value are those at which training would stop if it followed the signal.

    Args:
        over_training: The result of :func:`attention_over_training`.
        scores: One row per checkpoint: ``step``, the quality, and any other numbers, such as label-free criteria.
        quality: The column of ``scores`` with the quality of a checkpoint; higher is better.
        measures: Measures of attention to relate.
        **bootstrap: Options of :func:`bootstrapped_rank_correlation`.

    Returns:
        One row per signal: ``signal``, ``kind`` (attention or score), number of ``steps``; ``rank_correlation`` with its interval ``low``
        to ``high``; the steps ``highest_at`` and ``lowest_at``; ``lost_at_highest`` and ``lost_at_lowest``, by how much their quality falls
        short of the best step's.

    Raises:
        CheckpointError: If the scores lack a column, contain a step twice, or share fewer than three steps with the attention.
    """
    for column in ("step", quality):
        if column not in scores:
            msg = f"the scores have no column {column!r}, only {', '.join(map(str, scores.columns))}; add it, or choose another quality"
            raise CheckpointError(msg)
    known = scores.dropna(subset=[quality])
    if known["step"].duplicated().any():
        msg = f"the scores contain step {known['step'][known['step'].duplicated()].iloc[0]} twice; give one row per step"
        raise CheckpointError(msg)
    overall = over_training[over_training["layer"].astype(str) == ALL].pivot_table(index="step", columns="measure", values="mean")
    numbers = known.set_index("step").select_dtypes("number")
    steps = sorted(set(overall.index) & set(numbers.index))
    if len(steps) < _FEWEST_STEPS:
        msg = f"scores and attention share {len(steps)} steps {steps}; at least {_FEWEST_STEPS} are needed for a correlation"
        raise CheckpointError(msg)
    best = numbers.loc[steps, quality]
    signals = {name: ("attention", overall.loc[steps, name]) for name in measures if name in overall}
    signals |= {str(name): ("score", numbers.loc[steps, name]) for name in numbers.columns if name != quality}
    rows = []
    for name, (kind, values) in signals.items():
        present = values.dropna()
        if present.empty:
            continue
        correlation, low, high = bootstrapped_rank_correlation(values.to_numpy(float), best.to_numpy(float), **bootstrap)
        top, bottom = present.index[int(present.to_numpy().argmax())], present.index[int(present.to_numpy().argmin())]
        rows.append((name, kind, len(present), correlation, low, high, top, best.max() - best[top], bottom, best.max() - best[bottom]))
    columns = ["signal", "kind", "steps", "rank_correlation", "low", "high", "highest_at", "lost_at_highest", "lowest_at", "lost_at_lowest"]
    return pd.DataFrame(rows, columns=columns).round(4)
