"""Hook for the user at the terminal: every input is checked before any work starts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io.core import DatasetError

from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.parameters import OPTION_TYPES, read_options
from embedding_adaptation.paths import set_project_root
from embedding_adaptation.pipeline_registry import DEFAULT

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline

logger = logging.getLogger(__name__)

_EMBEDDER = "params:embedder"


class InputChecks:
    """Check every input of a run before any work starts."""

    def __init__(self) -> None:
        self._consumers: dict[str, set[str]] = {}

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Set the root of relative paths and check the names of this run's parameters.

        Raises:
            ParameterError: If a name is unknown.
        """
        set_project_root(context.project_path)
        check_names = getattr(context.config_loader, "check_names", None)
        if check_names is not None:
            check_names()
        consumers = getattr(context.config_loader, "consumers_of_run_parameters", None)
        self._consumers = consumers() if consumers is not None else {}

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Let inputs that can check themselves do so, and check that the others exist.

        Raises:
            DatasetError: If an input is missing or unusable; the message says what to do.
        """
        _check_options(pipeline, catalog)
        used = {name.partition(".")[0] if name.startswith("params:") else name for name in pipeline.datasets()}
        for name, consumers in self._consumers.items():
            if not consumers & used and "parameters" not in used:
                unused = " or ".join(sorted(entry.removeprefix("params:") for entry in consumers))
                logger.warning("parameter %s has no effect: this run does not use %s", name, unused)
        # Texts come before the base model: checking a model for the first time takes a few seconds.
        for name in sorted(pipeline.inputs(), reverse=True):
            if name.startswith("params:") or name == "parameters":
                continue
            dataset = catalog.get(name)
            check = getattr(dataset, "check_input", None)
            if check is not None:
                check()
            elif not getattr(dataset, "optional", False) and not catalog.exists(name):
                msg = f"input {name!r} does not exist yet; {_remedy(name)}{_location(dataset)}"
                raise DatasetError(msg)


def _check_options(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Let the options of the run check the names in them.

    Raises:
        DatasetError: If one of them does not exist.
    """
    embedder = read_options("embedder", catalog.load(_EMBEDDER)) if _EMBEDDER in pipeline.inputs() else None
    if not isinstance(embedder, EmbedderOptions):
        return

    def is_there(name: str) -> bool:
        """Whether a dataset exists, or the run itself supplies what is read from it elsewhere."""
        return name not in pipeline.inputs() or catalog.exists(name)

    for group in sorted(OPTION_TYPES):
        if f"params:{group}" in pipeline.inputs():
            try:
                read_options(group, catalog.load(f"params:{group}")).check(embedder, is_there)
            except ValueError as error:
                raise DatasetError(str(error)) from error


def _remedy(name: str) -> str:
    from kedro.framework.project import pipelines
    from kedro.pipeline import Pipeline

    pipelines.set_requested(None)  # the run has loaded only the pipelines it was asked for
    producers = [
        pipeline_name
        for pipeline_name, pipeline in pipelines.items()
        if pipeline_name not in {"__default__", DEFAULT} and name in Pipeline(pipeline.nodes).all_outputs()
    ]
    if producers:
        return f"run 'kedro run --pipelines={producers[0]}' first"
    return "see the catalog for where it is expected"


def _location(dataset: Any) -> str:
    path = getattr(dataset, "_filepath", None)
    return f" ({path})" if path else ""
