"""``adapt(texts)``: the pipeline ``adapt`` for texts in memory, from a notebook or a program."""

from __future__ import annotations

import html
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from kedro.framework.project import configure_project
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.runner import SequentialRunner
from kedro.utils import find_kedro_project

from embedding_adaptation.adapt_command import plan
from embedding_adaptation.atomic import replacing_file
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.run_command import quiet_kedro
from embedding_adaptation.run_summary import saved_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np

TEXTS_FILE = "texts.parquet"
_CONFIGURATION = "conf"


class UnusableTextsError(ValueError):
    """Texts that cannot be adapted to; the message says what to change."""


@dataclass(frozen=True)
class Adaptation:
    """What an adaptation led to.

    Attributes:
        folder: Everything that was written.
        model: The exported model, a folder for sentence-transformers.
        verdict: Whether adaptation helped: ``verdict`` (better, no_difference, worse, cannot_tell), ``sentence``, ``ship``, and what it
            follows from.
        facts: The facts about the exported model, as in its card.
        clusters: One row per cluster of the texts: ``cluster``, ``name``, ``size``, ``share``, ``words``, nearest texts.
        assignments: One row per text, in the order given: ``id``, ``text``, ``cluster``, ``cluster_name``, ``distance``.
        page: The page about all this, if there is one.
    """

    folder: Path
    model: Path
    verdict: Mapping[str, Any]
    facts: Mapping[str, Any]
    clusters: pd.DataFrame
    assignments: pd.DataFrame
    page: Path | None

    @cached_property
    def embedder(self) -> Embedder:
        """The exported model, loaded."""
        return Embedder.load(str(self.model))

    def encode(self, texts: Iterable[str]) -> np.ndarray:
        """Vectors ``[N, D]`` of texts under the exported model."""
        return self.embedder.encode(list(texts))

    def save(self, folder: str | Path) -> Path:
        """Copy the exported model to a new folder.

        Args:
            folder: Where to; it must not exist.

        Raises:
            FileExistsError: If it exists.
        """
        return Path(shutil.copytree(self.model, folder))

    def __str__(self) -> str:
        where = f"Page:  {self.page}\n" if self.page else ""
        return f"{self.verdict['sentence']}\n{where}Model: {self.model}"

    def _repr_html_(self) -> str:
        link = f'<a href="{html.escape(self.page.as_uri())}">Open the page</a> · ' if self.page else ""
        return f"<p>{html.escape(self.verdict['sentence'])}</p><p>{link}Model: <code>{html.escape(str(self.model))}</code></p>"


def adapt(
    texts: Iterable[str],
    labels: Iterable[object] | None = None,
    *,
    folder: str | Path = "adaptation",
    base_model: str | None = None,
    project: str | Path | None = None,
    env: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> Adaptation:
    """Adapt a small language model to texts, and say whether it helped.

    Runs the Kedro pipeline ``adapt`` with the project's configuration; with labels, strategies are scored, too. What an earlier call has
    finished in the same folder is not computed again.

    Args:
        texts: The texts to adapt to.
        labels: Labels of the texts, one each, if there are any.
        folder: Folder for everything that is written.
        base_model: A Hub id, a folder or a .gguf file; ``None`` takes the configuration's.
        project: Folder of the project, with ``conf``; ``None`` takes the one that contains the current folder, or else the one this package
            is installed from.
        env: Kedro's configuration environment.
        params: Further parameters, as for ``kedro run --params``: ``{"contrastive_finetuning.steps": 12}``.

    Raises:
        UnusableTextsError: If there are no texts, something else than texts, another number of labels, or a label is missing.
        FileNotFoundError: If there is no configuration.

    Example:
        >>> from embedding_adaptation import adapt
        >>> adaptation = adapt(texts)  # doctest: +SKIP
        >>> vectors = adaptation.encode(["another text"])  # doctest: +SKIP
    """
    table = _table(texts, labels)
    target = Path(folder).absolute()
    source = target / "01_raw" / TEXTS_FILE
    source.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(source) as work:
        table.to_parquet(work, index=False)
    pipelines, parameters = plan(
        texts=str(source),
        column="text",
        labels=None if labels is None else "label",
        labelled=None,
        model=base_model,
        output=str(target),
        params=dict(params or {}),
    )
    root = _project(project)
    is_project = find_kedro_project(root) == root
    if is_project:
        bootstrap_project(root)
    else:
        configure_project(__package__ or "")
    session = KedroSession.create(root, env=env, runtime_params=_nested(parameters), conf_source=str(root / _CONFIGURATION))
    with quiet_kedro(), session:
        session.run(pipeline_names=list(pipelines), runner=SequentialRunner())
        catalog = session.load_context().catalog
        page = Path(saved_path(catalog.get("adaptation_page"))) if catalog.exists("adaptation_page") else None
        return Adaptation(
            folder=target,
            model=Path(saved_path(catalog.get("adapted_embedder"))),
            verdict=catalog.load("verdict"),
            facts=catalog.load("model_facts"),
            clusters=catalog.load("cluster_summary"),
            assignments=catalog.load("cluster_assignments"),
            page=page,
        )


def _table(texts: Iterable[str], labels: Iterable[object] | None) -> pd.DataFrame:
    if isinstance(texts, str):
        msg = f"texts is one text ({texts[:40]!r}); give a list of texts, or run 'kedro adapt FILE' for a file"
        raise UnusableTextsError(msg)
    table = pd.DataFrame({"text": list(texts)}, dtype=object)
    if table.empty:
        msg = "there are no texts; give a list of texts"
        raise UnusableTextsError(msg)
    others = [value for value in table["text"] if not isinstance(value, str)]
    if others:
        msg = f"texts contains {others[0]!r}, which is {type(others[0]).__name__} and not text; leave it out or convert it"
        raise UnusableTextsError(msg)
    if labels is not None:
        given = pd.Series(list(labels), dtype=object)
        if len(given) != len(table):
            msg = f"there are {len(table)} texts and {len(given)} labels; give one label for each text"
            raise UnusableTextsError(msg)
        missing = given.isna() | (given.astype(str).str.strip() == "")
        if missing.any():
            first = int(missing.argmax())
            msg = f"{missing.sum()} of {len(given)} texts have no label (the first is number {first}); label or leave them out"
            raise UnusableTextsError(msg)
        table["label"] = given.astype(str)
    return table


def _nested(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by groups, from names with dots."""
    nested: dict[str, Any] = {}
    for name, value in parameters.items():
        *groups, last = name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return nested


def _project(project: str | Path | None) -> Path:
    """The folder of the project.

    Raises:
        FileNotFoundError: If it has no configuration.
    """
    here = Path(find_kedro_project(Path.cwd()) or Path.cwd())
    candidates = [Path(project)] if project is not None else [here, Path(__file__).parents[2]]
    for candidate in candidates:
        if (candidate / _CONFIGURATION / "base" / "catalog" / "model_export.yml").is_file():
            return candidate.resolve()
    msg = (
        f"no configuration of this project in {' or '.join(map(str, candidates))}; give the folder of the project (or of its unpacked "
        "conf) with adapt(..., project=FOLDER)"
    )
    raise FileNotFoundError(msg)
