"""What is scored on: the user's labelled files and mteb's own tasks, found by name."""

from __future__ import annotations

import copy
import difflib
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.clustering import AbsTaskClustering
from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy

from datasets import get_dataset_config_names, get_dataset_split_names
from embedding_adaptation.comparison_table import LABELLED_TEXTS
from embedding_adaptation.datasets.texts import TextsDataset
from embedding_adaptation.identity import labelled_identity
from embedding_adaptation.paths import project_path
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.pipelines.clustering_evaluation.scoring import (
    Label,
    Part,
    Seen,
    labelled_texts_task,
    preserved_random_state,
    unique_parts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from mteb.abstasks import AbsTask

    from embedding_adaptation.datasets.task_mirror import LocalCopy, TaskMirror
    from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions

logger = logging.getLogger(__name__)

CLUSTERING = "Clustering"
_SHOWN = 3


class PreparedTask(ABC):
    """A task with one seed: its documents are drawn."""

    @abstractmethod
    def fresh(self) -> AbsTask:
        """A task object that nothing was scored with, with its data."""

    @abstractmethod
    def parts(self, seen: Seen) -> list[Part]:
        """The different documents that this seed's score is about, for scores of our own; empty where it is no clustering.

        Args:
            seen: The texts that mteb's protocol has asked vectors for.
        """


class EvaluationTask(ABC):
    """A task by name.

    Attributes:
        name: Its name in tables.
        kind: mteb's type of the task, such as ``Clustering``.
        official: Whether it is one of mteb's own.
        seeds: Seeds of its scores.
        data: Everything that determines its documents and labels, for the fingerprint of a score: hashes, revision, sample.
    """

    name: str
    kind: str
    official: bool
    seeds: tuple[int, ...]
    data: dict[str, Any]

    @abstractmethod
    def prepare(self, seed: int) -> PreparedTask:
        """Draw the documents of a seed."""


@dataclass
class LabelledTask(EvaluationTask):
    """The user's labelled texts, as a clustering task in mteb's fast protocol with all documents embedded."""

    name: str
    texts: list[str]
    labels: list[Label]
    seeds: tuple[int, ...]
    max_documents: int | None = None
    kind: str = CLUSTERING
    official: bool = False
    data: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.data = {"sha256": labelled_identity(self.texts, self.labels), "max_documents": self.max_documents}
        try:
            unique_parts(self.texts, self.labels)
        except EvaluationError as error:
            msg = f"{self.name}: {error}"
            raise EvaluationError(msg) from error

    def prepare(self, seed: int) -> PreparedTask:
        """All texts, or the seed's sample of them."""
        rows = _draw(len(self.texts), self.max_documents, seed)
        return _PreparedLabelled(self.name, [self.texts[row] for row in rows], [self.labels[row] for row in rows], seed)


@dataclass
class _PreparedLabelled(PreparedTask):
    name: str
    texts: list[str]
    labels: list[Label]
    seed: int

    def fresh(self) -> AbsTask:
        return labelled_texts_task(self.texts, self.labels, self.seed)

    def parts(self, seen: Seen) -> list[Part]:  # noqa: ARG002  all of them
        return unique_parts(self.texts, self.labels)


@dataclass
class OfficialTask(EvaluationTask):
    """One of mteb's own tasks, with its data from the mirror or the Hub."""

    name: str
    template: AbsTask
    files: LocalCopy
    seeds: tuple[int, ...]
    official: bool = True
    data: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.kind = str(self.template.metadata.type)
        self.data = {
            "task": self.name,
            "subsets": list(self.template.hf_subsets),
            "splits": list(self.template.eval_splits),
            "revision": self.files.revision,
            "sha256": self.files.sha256,
        }

    def prepare(self, seed: int) -> PreparedTask:
        """Load the data from the local copy, as mteb does.

        Raises:
            EvaluationError: If a split is missing or the data cannot be read.
        """
        task = _another(self.template, seed)
        _check_splits(self, task)
        published = task.metadata.dataset
        # A path on the object itself, read once: the class, and every fresh object, keeps what mteb publishes.
        task.metadata = task.metadata.model_copy(update={"dataset": {**published, "path": str(self.files.folder)}})
        try:
            task.load_data()
        except Exception as error:
            msg = (
                f"{self.name}: its data in {self.files.folder} cannot be read ({type(error).__name__}: {str(error)[:200]}); "
                "copy them again from the Hub"
            )
            raise EvaluationError(msg) from error
        return _PreparedOfficial(self, seed, task)


@dataclass
class _PreparedOfficial(PreparedTask):
    task: OfficialTask
    seed: int
    loaded: AbsTask
    _parts: tuple[Seen, list[Part]] | None = None

    def fresh(self) -> AbsTask:
        fresh = _another(self.task.template, self.seed)
        fresh.dataset = dict(self.loaded.dataset)
        fresh.data_loaded = True
        # Loading may have drawn from the task's generators: go on where it left off.
        fresh.rng_state, fresh.np_rng = copy.deepcopy(self.loaded.rng_state), copy.deepcopy(self.loaded.np_rng)
        return fresh

    def parts(self, seen: Seen) -> list[Part]:
        if not self._parts or self._parts[0] != seen:
            self._parts = (seen, self._find_parts(seen))
        return self._parts[1]

    def _find_parts(self, seen: Seen) -> list[Part]:
        task, name = self.loaded, self.task.name
        if not isinstance(task, AbsTaskClustering | AbsTaskClusteringLegacy):
            return []
        parts: list[Part] = []
        for (split, subset), drawn in seen.items():
            rows = task.dataset[subset][split] if subset in task.dataset else task.dataset[split]
            title = f"{subset} {split}" if len(seen) > 1 else ""
            texts, labels = rows[task.input_column_name], rows[task.label_column_name]
            if isinstance(task, AbsTaskClusteringLegacy):  # a row is a set of documents
                for number, (members, names) in enumerate(zip(texts, labels, strict=True), start=1):
                    if len(set(names)) > 1:
                        parts += unique_parts(members, normalised_labels(names, name), f"{title} set {number}".strip())
                continue
            # What was drawn is known by its text: copies count once anyway.
            label_of: dict[str, Any] = {}
            for text, label in zip(texts, labels, strict=True):
                label_of.setdefault(text, label)
            parts += unique_parts(drawn, normalised_labels([label_of[text] for text in drawn], name), title)
        return parts


def normalised_labels(labels: Sequence[Any], name: str) -> list[Label]:
    """Convert labels (numbers, names, or lists of them) to text.

    Args:
        labels: Labels as stored in a data set.
        name: The task's name, for messages.

    Raises:
        EvaluationError: If a document has no label.
    """
    kinds = {type(level).__name__ for label in labels for level in (label if isinstance(label, list | tuple) else [label])}
    normalised: list[Label] = []
    for number, label in enumerate(labels, start=1):
        levels = [str(level) for level in (label if isinstance(label, list | tuple) else [label]) if level is not None]
        if not levels:
            msg = f"{name}: document {number} has no label; label or remove it"
            raise EvaluationError(msg)
        normalised.append(levels if isinstance(label, list | tuple) else levels[0])
    if len(kinds - {"NoneType"}) > 1:
        logger.warning(
            "%s: labels of several types (%s) are compared as text, so 1 and '1' are the same class", name, ", ".join(sorted(kinds))
        )
    return normalised


def check_task_names(options: EvaluationOptions) -> None:
    """Check that every name is a task and every labelled file is usable.

    Raises:
        EvaluationError: If a name is unknown; the message suggests similar ones.
        DatasetError: If a file cannot be used.
    """
    for name in options.labelled_files:
        _read_file(name, options)
    _official_templates(options)


def resolve_tasks(options: EvaluationOptions, labelled_texts: pd.DataFrame, mirror: TaskMirror) -> list[EvaluationTask]:
    """The tasks named in the options, in order, without duplicates.

    Args:
        options: Names, files and seeds.
        labelled_texts: The catalog's labelled texts.
        mirror: Source of the data of mteb's tasks.

    Raises:
        EvaluationError: If a name is unknown, or its task cannot be scored.
        MirrorError: If its data are missing or differ from those expected.
    """
    official = _official_templates(options)
    tasks: dict[str, EvaluationTask] = {}
    for name in options.tasks:
        if name == LABELLED_TEXTS or name in options.labelled_files:
            frame = labelled_texts if name == LABELLED_TEXTS else _read_file(name, options)
            tasks[name] = labelled_task(name, frame, options.seeds, options.max_documents)
            continue
        for template in official[name]:
            title = template.metadata.name
            if title not in tasks:
                tasks[title] = OfficialTask(title, template, _fetch(template, mirror), options.official_seeds)
    for task in tasks.values():
        if isinstance(task, LabelledTask):
            _report_oddities(task)
    return list(tasks.values())


def labelled_task(name: str, frame: pd.DataFrame, seeds: Sequence[int], max_documents: int | None = None) -> LabelledTask:
    """Make a task from a frame with ``text`` and ``label``, or ``labels`` from coarse to fine."""
    labels = frame["labels"] if "labels" in frame else frame["label"]
    given = [list(label) if not isinstance(label, str) and hasattr(label, "__iter__") else label for label in labels]
    return LabelledTask(name, frame["text"].tolist(), normalised_labels(given, name), tuple(seeds), max_documents)


def mirror_tasks(mirror: TaskMirror, options: EvaluationOptions) -> list[str]:
    """Download the data of the tasks named in the options from the Hub into a mirror, for machines without a network.

    Returns:
        The names of the tasks.
    """
    templates = {task.metadata.name: task for tasks in _official_templates(options).values() for task in tasks}
    for template in templates.values():
        published = template.metadata.dataset
        mirror.download(published["path"], published["revision"], _configs(template))
    return list(templates)


def _read_file(name: str, options: EvaluationOptions) -> pd.DataFrame:
    file_options = options.labelled_files[name]
    return TextsDataset(
        filepath=str(project_path(file_options.path)),
        text_column=file_options.text_column,
        label_column=file_options.label_column,
        encoding=file_options.encoding,
        separator=file_options.separator,
    ).load()


def _official_templates(options: EvaluationOptions) -> dict[str, list[AbsTask]]:
    """Task objects of mteb for each name that is not a labelled file; those of a benchmark are restricted to the types requested."""
    names = [name for name in options.tasks if name != LABELLED_TEXTS and name not in options.labelled_files]
    if not names:
        return {}
    with preserved_random_state():
        import mteb
        from mteb.abstasks.aggregated_task import AbsTaskAggregate
        from mteb.benchmarks.get_benchmark import _build_aliases_registry, _build_registry
        from mteb.get_tasks import _TASKS_REGISTRY

        benchmarks = {**_build_registry(), **_build_aliases_registry()}
        templates: dict[str, list[AbsTask]] = {}
        for name in names:
            if name in benchmarks:
                members = [task for task in benchmarks[name].tasks if str(task.metadata.type) in options.task_types]
                if not members:
                    kinds = sorted({str(task.metadata.type) for task in benchmarks[name].tasks})
                    msg = f"the benchmark {name!r} has no task of the types {', '.join(options.task_types)}; choose from {', '.join(kinds)}"
                    raise EvaluationError(msg)
            elif name in _TASKS_REGISTRY:
                members = [mteb.get_task(name)]
            else:
                known = [LABELLED_TEXTS, *options.labelled_files, *_TASKS_REGISTRY, *benchmarks]
                near = difflib.get_close_matches(name, known, n=_SHOWN, cutoff=0.5)
                hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "mteb.get_tasks() and mteb.get_benchmarks() list them"
                msg = f"unknown task {name!r} in clustering_evaluation.tasks: not a labelled file, mteb task or benchmark; {hint}"
                raise EvaluationError(msg)
            templates[name] = [part for task in members for part in (task.metadata.tasks if isinstance(task, AbsTaskAggregate) else [task])]
            for task in templates[name]:
                if list(task.modalities) != ["text"]:
                    msg = f"{task.metadata.name} embeds {' and '.join(task.modalities)}, but this project embeds texts only; leave it out"
                    raise EvaluationError(msg)
    return templates


def _another(template: AbsTask, seed: int) -> AbsTask:
    """A new object of the same task, with the same subsets and splits."""
    task = type(template)(seed=seed)
    task.hf_subsets = list(template.hf_subsets)
    task._eval_splits = template._eval_splits  # noqa: SLF001  a benchmark chooses splits, and mteb has no getter for the choice
    return task


def _configs(template: AbsTask) -> list[str]:
    return sorted(template.hf_subsets) if template.metadata.is_multilingual else []


def _fetch(template: AbsTask, mirror: TaskMirror) -> LocalCopy:
    published = template.metadata.dataset
    return mirror.fetch(published["path"], published["revision"], _configs(template))


def _check_splits(official: OfficialTask, task: AbsTask) -> None:
    """Look for the splits first, because mteb's message names neither file nor remedy."""
    folder = str(official.files.folder)
    try:
        configs = get_dataset_config_names(folder)
        if isinstance(task, AbsTaskRetrieval):
            return  # corpus and queries have splits of their own names
        wanted = [subset for subset in task.hf_subsets if subset in configs] if task.metadata.is_multilingual else [configs[0]]
        splits = {split for config in wanted for split in get_dataset_split_names(folder, config)}
    except Exception as error:
        msg = f"{official.name}: the data in {folder} cannot be read ({type(error).__name__}); copy them again from the Hub"
        raise EvaluationError(msg) from error
    absent = [subset for subset in task.hf_subsets if subset not in configs] if task.metadata.is_multilingual else []
    if absent:
        msg = f"{official.name}: {folder} has no subset {absent[0]!r}, only {', '.join(configs)}; copy it again from the Hub"
        raise EvaluationError(msg)
    missing = [split for split in task.eval_splits if split not in splits]
    if missing:
        msg = (
            f"{official.name}: {folder} has no split {missing[0]!r}, only {', '.join(sorted(splits))}; the mirror is incomplete: "
            "copy the missing files from the Hub"
        )
        raise EvaluationError(msg)


def _draw(count: int, limit: int | None, seed: int) -> list[int]:
    if limit is None or count <= limit:
        return list(range(count))
    return np.sort(np.random.default_rng(seed).choice(count, size=limit, replace=False)).tolist()


def _report_oddities(task: LabelledTask) -> None:
    for part in unique_parts(task.texts, task.labels):
        where = f"{task.name}{f' {part.title}' if part.title else ''}"
        if part.copies:
            logger.warning(
                "%s: %d documents are copies of others (%d with another label); scores on unique documents use each text's first label",
                where, part.copies, part.contradictions,
            )  # fmt: skip
        if part.singletons:
            logger.warning(
                "%s: %d of %d labels belong to one document only, and are of no use for scoring",
                where,
                part.singletons,
                part.clusters,
            )
