"""Import and compile once, in the process that the commands are forked from, what each of them would take seconds for."""

from __future__ import annotations

import contextlib
import importlib
import os

MODULES = (
    "torch",
    "transformers",
    "peft",
    "sentence_transformers",
    "mteb",
    "umap",
    "datasets",
    "pandas",
    "pyarrow.parquet",
    "plotly.graph_objects",
    "matplotlib.pyplot",
    "sklearn.cluster",
    "sklearn.decomposition",
    "sklearn.feature_extraction.text",
    "scipy.stats",
    "py3langid",
    "rapidfuzz",
    "kedro.framework.cli.cli",
    "kedro.runner",
    "kedro_datasets.pandas",
    "embedding_adaptation.settings",
    "embedding_adaptation.tracking",
    "transformers.models.llama.modeling_llama",
    "rich.console",
    "kedro_viz.launchers.cli.main",
    "kedro_telemetry.plugin",
    "kedro_datasets.matplotlib",
    "kedro_datasets.plotly",
    "kedro_datasets.json",
    "kedro_datasets.text",
)


def warm_up() -> None:
    """Import, and let numba compile what UMAP needs."""
    # Before numba is imported: forks and threads do not go together.
    os.environ.update(NUMBA_NUM_THREADS="1", NUMBA_THREADING_LAYER="workqueue")
    for module in MODULES:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
    import numpy as np
    import umap

    points = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    umap.UMAP(n_neighbors=5, n_epochs=11, random_state=0, n_jobs=1, metric="cosine").fit(points)
