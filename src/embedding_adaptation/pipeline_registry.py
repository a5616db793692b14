"""The project's pipelines by name."""

from __future__ import annotations

from importlib.resources import files

from kedro.framework.project import find_pipelines, pipelines
from kedro.pipeline import Pipeline

from embedding_adaptation.pipeline_boxes import in_boxes
from embedding_adaptation.wording import nearest

DEFAULT = "end_to_end"


class UnknownPipelineError(ValueError):
    """An unknown pipeline; the message suggests similar names."""


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines, each in a namespace of its name; ``kedro run`` without a name runs the whole chain.

    Raises:
        UnknownPipelineError: If a requested pipeline does not exist.
    """
    names = {folder.name for folder in (files(__package__) / "pipelines").iterdir() if (folder / "__init__.py").is_file()}
    # Kedro imports only the pipelines of the run, keeps their names private, and reports an unknown one as a failed import.
    for name in getattr(pipelines, "_requested_pipelines", None) or ():
        if name not in {*names, "__default__"}:
            msg = f"unknown pipeline {name!r}; {nearest(name, names)}"
            raise UnknownPipelineError(msg)
    # The report of the whole chain belongs to none of its parts.
    registered = {name: in_boxes(pipeline, names - {DEFAULT}) for name, pipeline in find_pipelines(raise_errors=True).items()}
    # Kedro's own default is the sum of all pipelines found.
    if DEFAULT in registered:
        registered["__default__"] = registered[DEFAULT]
    return registered
