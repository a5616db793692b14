"""Hooks that help the person at the terminal: inputs checked first, the result shown last."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io.core import DatasetError

from embedding_adaptation.comparison_table import comparison_table
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.parameters import OPTION_TYPES, read_options
from embedding_adaptation.paths import set_project_root
from embedding_adaptation.pipeline_registry import DEFAULT

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline

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
        _check_options(pipeline, catalog)
        used = {name.partition(".")[0] if name.startswith("params:") else name for name in pipeline.datasets()}
        for name, found in self._takers.items():
            if not found & used and "parameters" not in used:
                takers = " and ".join(sorted(entry.removeprefix("params:") for entry in found))
                logger.warning("the parameter %s changes nothing in this run: it is for %s, which the run does not use", name, takers)
        # Texts come before the base model: looking at a model that was never used takes a few seconds.
        for name in sorted(pipeline.inputs(), reverse=True):
            if name.startswith("params:") or name == "parameters":
                continue
            dataset = catalog.get(name)
            check = getattr(dataset, "check_input", None)
            if check is not None:
                check()
            elif not getattr(dataset, "optional", False) and not catalog.exists(name):
                msg = f"the input {name!r} is not there yet; {_way_out(name)}{_place(dataset)}"
                raise DatasetError(msg)


def _check_options(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Let the options of the run check what they name.

    Raises:
        DatasetError: If something does not exist.
    """
    embedder = read_options("embedder", catalog.load(_EMBEDDER)) if _EMBEDDER in pipeline.inputs() else None
    if not isinstance(embedder, EmbedderOptions):
        return
    for group in sorted(OPTION_TYPES):
        if f"params:{group}" in pipeline.inputs():
            try:
                read_options(group, catalog.load(f"params:{group}")).check(embedder, catalog.exists)
            except ValueError as error:
                raise DatasetError(str(error)) from error


def _way_out(name: str) -> str:
    from kedro.framework.project import pipelines
    from kedro.pipeline import Pipeline

    pipelines.set_requested(None)  # the run loaded only what it was asked for
    makers = [
        pipeline_name
        for pipeline_name, pipeline in pipelines.items()
        if pipeline_name not in {"__default__", DEFAULT} and name in Pipeline(pipeline.nodes).all_outputs()
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
