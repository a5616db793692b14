"""The project's pipelines by name."""

from __future__ import annotations

from importlib.resources import files

from kedro.framework.project import find_pipelines, pipelines
from kedro.pipeline import Pipeline

from embedding_adaptation.wording import nearest

DEFAULT = "end_to_end"


class UnknownPipelineError(ValueError):
    """There is no pipeline of that name; the message has the nearest ones."""


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines; ``kedro run`` without a name runs the whole chain.

    Raises:
        UnknownPipelineError: If a pipeline is asked for that there is not.
    """
    there = {folder.name for folder in (files(__package__) / "pipelines").iterdir() if (folder / "__init__.py").is_file()}
    # Kedro, which imports only what a run asks for, keeps that to itself, and calls a missing pipeline a failed import.
    for name in getattr(pipelines, "_requested_pipelines", None) or ():
        if name not in {*there, "__default__"}:
            msg = f"there is no pipeline {name!r}; {nearest(name, there)}"
            raise UnknownPipelineError(msg)
    found = find_pipelines(raise_errors=True)
    # Kedro's own default is the sum of all pipelines that were found; where only some were asked for, there is none to name.
    if DEFAULT in found:
        found["__default__"] = found[DEFAULT]
    return found
