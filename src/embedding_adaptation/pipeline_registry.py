"""The project's pipelines by name."""

from __future__ import annotations

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline

DEFAULT = "end_to_end"


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines; ``kedro run`` without a name runs the whole chain."""
    pipelines = find_pipelines(raise_errors=True)
    # Kedro's own default is the sum of all pipelines that were found; where only some were asked for, there is none to name.
    if DEFAULT in pipelines:
        pipelines["__default__"] = pipelines[DEFAULT]
    return pipelines
