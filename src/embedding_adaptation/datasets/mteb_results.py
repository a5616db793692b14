"""mteb's result files as a catalog dataset: the folder that its leaderboard accepts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedding_adaptation.datasets.directory import DirectoryDataset
from embedding_adaptation.identity import digest_of

_REVISION_DIGITS = 16


@dataclass(frozen=True)
class ModelResults:
    """One model's results.

    Attributes:
        name: ``ORGANISATION/NAME``.
        max_tokens: Longest sequence in tokens.
        settings: Everything that determines this model's vectors, with their identity; part of its description, and hashed to its revision.
        tasks: mteb's result by task, as JSON.
    """

    name: str
    max_tokens: int
    settings: dict[str, Any]
    tasks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskResults:
    """Results of several models; empty if none of mteb's own tasks was scored."""

    models: tuple[ModelResults, ...]


class MtebResultsDataset(DirectoryDataset[TaskResults, Path]):
    """A folder ``results/ORGANISATION__NAME/REVISION/TASK.json`` with a ``model_meta.json``, written by mteb itself.

    Loading returns the folder, ready for a pull request to https://github.com/embeddings-benchmark/results.
    """

    def read_directory(self, directory: Path) -> Path:
        """The folder."""
        return directory

    def write_directory(self, data: TaskResults, directory: Path) -> None:
        """Let mteb write its files; without results, write nothing and do not import mteb."""
        if not data.models:
            return
        from mteb.cache import ResultCache
        from mteb.models import ModelMeta
        from mteb.models.model_meta import ScoringFunction
        from mteb.results import TaskResult

        cache = ResultCache(directory)
        for model in data.models:
            overwrites = {
                "name": model.name,
                "revision": digest_of(model.settings)[:_REVISION_DIGITS],
                "max_tokens": model.max_tokens,
                "similarity_fn_name": ScoringFunction.COSINE,
                "framework": ["PyTorch"],
                "use_instructions": True,
            }
            meta = ModelMeta.create_empty(overwrites=overwrites)
            for result in model.tasks.values():
                cache.save_to_cache(TaskResult.model_validate_json(result), meta, encode_kwargs=model.settings)
