"""Shared by the benchmarks: the default base model and the hard sample."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import yaml

from embedding_adaptation import PromptTemplate
from embedding_adaptation.datasets.base_model import BaseModelDataset
from embedding_adaptation.embedder.weights import DecoderWeights

PROJECT = Path(__file__).parents[1]
ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')


def default_weights() -> DecoderWeights:
    """The project's base model, converted if necessary."""
    setting = yaml.safe_load((PROJECT / "conf" / "base" / "globals.yml").read_text())["base_model"]
    from kedro.io import Version

    return BaseModelDataset(source=setting, filepath=str(PROJECT / "data/06_models/base_model"), version=Version(None, None)).load()


def sample_texts(count: int) -> list[str]:
    """Texts of the hard sample, in the file's (random) order."""
    return pd.read_csv(PROJECT / "data" / "01_raw" / "hard_labelled_texts.csv")["text"].head(count).tolist()


def median_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Median wall time of a piece of work, after one unmeasured run."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def report(title: str, baseline: str, seconds: dict[str, float], amount: int, unit: str) -> None:
    """Print speeds and their ratio to the baseline."""
    print(f"\n{title}")
    for name, value in seconds.items():
        print(f"  {name:<42} {amount / value:>8.0f} {unit}/s   x{seconds[baseline] / value:.2f}")


def weights_of(setting: str, directory: Path) -> DecoderWeights:
    """Any base model, named as in ``conf/base/globals.yml`` and converted into the caller's directory."""
    from kedro.io import Version

    return BaseModelDataset(source=setting, filepath=str(directory / "base_model"), version=Version(None, None)).load()
