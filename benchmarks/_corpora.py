"""Corpora built from a few labelled files, so that a few sets are not a few points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd


def labelled(path: Path) -> pd.DataFrame:
    """Distinct texts with their labels as text."""
    return pd.read_csv(path).drop_duplicates("text")[["text", "label"]].astype(str)


def built(paths: list[Path], draw: int, count: int) -> dict[str, pd.DataFrame]:
    """Corpora of at most ``count`` texts by name.

    Of each file: a random draw; few of its classes; shares of classes as in Zipf's law; as many texts of each class; and its classes merged
    at random into four. Of all files: a mixture, with the classes of each, and with the files as classes.

    Args:
        paths: CSV files with ``text`` and ``label``.
        draw: Seed of the draws.
        count: Number of texts.
    """
    files = {path.stem: labelled(path) for path in paths}
    corpora = {}
    for name, rows in files.items():
        rng = np.random.default_rng(1000 + draw)
        classes = rng.permutation(rows["label"].unique())
        few = rows[rows["label"].isin(classes[: max(3, len(classes) // 4)])]
        shares = 1.0 / np.arange(1, len(classes[:12]) + 1)
        sizes = np.maximum(4, count * shares / shares.sum()).astype(int)
        zipf = [_draw(rows[rows["label"] == label], size, draw) for label, size in zip(classes[:12], sizes, strict=True)]
        balanced = [_draw(group, count // len(classes), draw) for _, group in rows.groupby("label")]
        merged = {label: f"group {number % 4}" for number, label in enumerate(classes)}
        corpora |= {
            name: _draw(rows, count, draw),
            f"{name}, few classes": _draw(few, count, draw),
            f"{name}, Zipf": _shuffled(zipf, draw),
            f"{name}, balanced": _shuffled(balanced, draw),
            f"{name}, merged": _draw(rows, count, draw).assign(label=lambda drawn, merged=merged: drawn["label"].map(merged)),
        }
    parts = {name: _draw(rows, count // len(files), draw) for name, rows in files.items()}
    corpora["mixture"] = _shuffled([rows.assign(label=f"{name} " + rows["label"]) for name, rows in parts.items()], draw)
    corpora["mixture, files"] = _shuffled([rows.assign(label=name) for name, rows in parts.items()], draw)
    return corpora


def _draw(rows: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    return rows.sample(min(count, len(rows)), random_state=seed)


def _shuffled(parts: list[pd.DataFrame], seed: int) -> pd.DataFrame:
    return pd.concat(parts).sample(frac=1.0, random_state=seed)
