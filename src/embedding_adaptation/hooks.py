"""Hooks that help the person at the terminal: inputs checked first, the result shown last."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io.core import DatasetError

from embedding_adaptation.comparison_table import comparison_table
from embedding_adaptation.paths import set_project_root

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline

    from embedding_adaptation.options import EmbedderOptions

logger = logging.getLogger(__name__)

RESULT_DATASET, MODEL_DATASET = "strategy_comparison", "adapted_embedder"
_EMBEDDER = "params:embedder"


class InputChecks:
    """Look at every input of a run before any work starts."""

    def __init__(self) -> None:
        self._takers: dict[str, set[str]] = {}

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Note where relative paths start, and check the names of the parameters given for this run.

        Raises:
            ParameterError: If there is a name that nothing takes.
        """
        set_project_root(context.project_path)
        check_names = getattr(context.config_loader, "check_names", None)
        if check_names is not None:
            check_names()
        takers_of_given = getattr(context.config_loader, "takers_of_given", None)
        self._takers = takers_of_given() if takers_of_given is not None else {}

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Check the inputs that can check themselves, and that the others are there.

        Raises:
            DatasetError: If an input is missing or cannot be used; the message says what to do.
        """
        _check_names(pipeline, catalog)
        used = {name.partition(".")[0] if name.startswith("params:") else name for name in pipeline.datasets()}
        for name, found in self._takers.items():
            if not found & used and "parameters" not in used:
                takers = " and ".join(sorted(entry.removeprefix("params:") for entry in found))
                logger.warning("the parameter %s changes nothing in this run: it is for %s, which the run does not use", name, takers)
        # Texts come before the base model: looking at a model that was never used takes a few seconds.
        for name in sorted(pipeline.inputs(), reverse=True):
            if name.startswith("params:") or name == "parameters":
                continue
            check = getattr(catalog.get(name), "check_input", None)
            if check is not None:
                check()
            elif name not in _OPTIONAL and not catalog.exists(name):
                msg = f"the input {name!r} is not there yet; {_way_out(name)}{_place(catalog.get(name))}"
                raise DatasetError(msg)


def _check_names(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Check that the strategies which one pipeline's options name are among the embedder's."""
    from embedding_adaptation.options import EmbedderOptions, chosen_names

    if _EMBEDDER not in pipeline.inputs():
        return
    given = catalog.load(_EMBEDDER)
    embedder = EmbedderOptions.model_validate(given if isinstance(given, dict) else given.model_dump())
    names = embedder.every_strategy
    for setting, field in (("embedding_extraction", "strategies"), ("clustering_evaluation", "strategies")):
        if f"params:{setting}" in pipeline.inputs():
            options = catalog.load(f"params:{setting}")
            patterns = options[field] if isinstance(options, dict) else getattr(options, field)
            try:
                chosen_names([patterns] if isinstance(patterns, str) else patterns, names, f"{setting}.{field}")
            except ValueError as error:
                raise DatasetError(str(error)) from error
    if "params:model_export" in pipeline.inputs():
        _check_export(catalog.load("params:model_export"), embedder)
    if "params:clustering_evaluation" in pipeline.inputs():
        _check_tasks(catalog.load("params:clustering_evaluation"))
    if "params:data_augmentation" in pipeline.inputs():
        _check_augmentation(catalog.load("params:data_augmentation"), embedder)
    if "params:contrastive_finetuning" in pipeline.inputs():
        _check_finetuning(catalog.load("params:contrastive_finetuning"), embedder)
    if "params:text_clustering" in pipeline.inputs():
        _check_clustering(catalog, embedder)


def _check_export(given: Any, embedder: EmbedderOptions) -> None:
    """Check that the strategy to be exported can be."""
    from embedding_adaptation.pipelines.model_export.options import ExportOptions

    try:
        ExportOptions.model_validate(given if isinstance(given, dict) else given.model_dump()).chosen(embedder)
    except ValueError as error:
        raise DatasetError(str(error)) from error


def _check_tasks(given: Any) -> None:
    """Check that clustering evaluation names tasks that there are; mteb is imported only where one of its own is named."""
    from embedding_adaptation.comparison_table import LABELLED_TEXTS
    from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions

    values = given if isinstance(given, dict) else given.model_dump()
    if values.get("tasks", LABELLED_TEXTS) in (LABELLED_TEXTS, (LABELLED_TEXTS,), [LABELLED_TEXTS]) and not values.get("labelled_files"):
        return
    from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
    from embedding_adaptation.pipelines.clustering_evaluation.tasks import check_task_names

    try:
        check_task_names(EvaluationOptions.model_validate(values))
    except EvaluationError as error:
        raise DatasetError(str(error)) from error


def _check_augmentation(given: Any, embedder: EmbedderOptions) -> None:
    """Check that data augmentation names templates and strategies that there are."""
    from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions

    options = AugmentationOptions.model_validate(given if isinstance(given, dict) else given.model_dump(by_alias=True))
    neighbours, drift = options.generators.neighbours, options.filters.drift
    if neighbours:
        try:
            embedder.check_strategies(neighbours.strategies)
        except ValueError as error:
            msg = f"data_augmentation.generators.neighbours: {error}"
            raise DatasetError(msg) from error
    usable = [name for name, strategy in embedder.every_strategy.items() if strategy.weights == "base" and not strategy.after.title]
    if drift and drift.strategy not in usable:
        msg = (
            f"data_augmentation.filters.drift.strategy names the strategy {drift.strategy!r}; it takes those of the base weights without "
            f"after-processing: {', '.join(usable)}"
        )
        raise DatasetError(msg)


def _check_finetuning(given: Any, embedder: EmbedderOptions) -> None:
    """Check that the strategy which training compares neighbours with is there."""
    from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions

    try:
        FinetuningOptions.model_validate(given if isinstance(given, dict) else given.model_dump()).check(embedder)
    except ValueError as error:
        raise DatasetError(str(error)) from error


def _check_clustering(catalog: DataCatalog, embedder: EmbedderOptions) -> None:
    """Check that text clustering names strategies that there are, and asks for no adapter that there is not."""
    from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions

    given = catalog.load("params:text_clustering")
    options = TextClusteringOptions.model_validate(given if isinstance(given, dict) else given.model_dump())
    try:
        options.check(embedder)
    except ValueError as error:
        raise DatasetError(str(error)) from error
    if options.weights == "adapted" and not catalog.exists("trained_adapter"):
        msg = f"text_clustering.weights is adapted, but there is no adapter; {_way_out('adapter')}, or set it to base"
        raise DatasetError(msg)


# Made by earlier runs, and useful when it is there.
_OPTIONAL = frozenset(
    {
        "finished_candidates",
        "finished_scores",
        "finished_cells",
        "corpus_report",
        "evaluation_report",
        "training_checkpoints",
        "trained_adapter",
        "corpus_shards",
    }
)


def _way_out(name: str) -> str:
    from kedro.framework.project import pipelines
    from kedro.pipeline import Pipeline

    pipelines.set_requested(None)  # the run loaded only what it was asked for
    makers = [
        pipeline_name
        for pipeline_name, pipeline in pipelines.items()
        if pipeline_name not in {"__default__", "end_to_end"} and name in Pipeline(pipeline.nodes).all_outputs()
    ]
    if makers:
        return f"run 'kedro run --pipelines={makers[0]}' first"
    return "see the catalog for where it is expected"


def _place(dataset: Any) -> str:
    path = getattr(dataset, "_filepath", None)
    return f" ({path})" if path else ""


class ResultTable:
    """Show the comparison of strategies at the end of a run that made one."""

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Draw the table on the terminal."""
        if RESULT_DATASET not in pipeline.all_outputs():
            return
        from rich.console import Console

        console = Console()
        console.print(comparison_table(catalog.load(RESULT_DATASET)))
        if "report" in pipeline.all_outputs():
            console.print(f"Report: {_saved_path(catalog.get('report'))}", soft_wrap=True, highlight=False)
        if MODEL_DATASET in pipeline.all_outputs():
            console.print(f"Model:  {_saved_path(catalog.get(MODEL_DATASET))}", soft_wrap=True, highlight=False)


def _saved_path(dataset: Any) -> Any:
    return dataset._get_load_path()  # noqa: SLF001  kedro has no public getter for a versioned path
