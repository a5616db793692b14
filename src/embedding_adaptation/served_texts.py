"""Input checks for a served model: it accepts texts, and nothing that would have to be converted to one.

This file is copied beside each registered model and imports nothing from this package, so that it works where the package is not
installed. MLflow's own loader would embed a missing value as the text "None", the number 1 as "1", and only the first of two columns.

Reference: https://mlflow.org/docs/latest/python_api/mlflow.pyfunc.html (loader modules)
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_SETTINGS = "embedder.json"
_REMEDY = 'give a list of strings: {"inputs": ["a text", "another"]}'


class TextsOnly:
    """MLflow's wrapper of a sentence-transformers model, with a check of its input."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def get_raw_model(self) -> Any:
        """The ``SentenceTransformer``."""
        return self._wrapped.get_raw_model()

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        """Vectors of texts, ``[N, D]`` float32.

        Args:
            data: A table of one column, or a list.
            params: Further arguments of ``encode``.

        Raises:
            MlflowException: If the data is anything else, or a value is not a string; the server answers with status 400.
        """
        return self._wrapped.predict(texts_of(data), params)


def texts_of(data: Any) -> list[str]:
    """The texts of a request.

    Args:
        data: A table of one column, a series, an array or a list.

    Raises:
        MlflowException: If the data is anything else, or a value is not a string.
    """
    from mlflow.exceptions import MlflowException

    columns = getattr(data, "columns", None)
    if columns is not None and len(columns) != 1:
        names = ", ".join(str(name) for name in columns)
        raise MlflowException.invalid_parameter_value(
            f"the input has {len(columns)} columns ({names}), but only one can hold the texts; {_REMEDY}"
        )
    column = data if columns is None else data.iloc[:, 0]
    values = column.tolist() if hasattr(column, "tolist") else column
    texts = list(values) if isinstance(values, list | tuple) else [values]
    invalid = [(number, value) for number, value in enumerate(texts) if not isinstance(value, str)]
    if invalid:
        number, value = invalid[0]
        raise MlflowException.invalid_parameter_value(
            f"input {number} is {_described(value)}, not a text ({len(invalid)} of {len(texts)} are not); {_REMEDY}"
        )
    return texts


def adapted_to(folder: Path) -> str:
    """Say in one sentence which texts a model was adapted to, for whoever serves it.

    Args:
        folder: The model's folder, or one that contains it.
    """
    file = next(iter(sorted(folder.rglob(_SETTINGS))), None)
    corpus = json.loads(file.read_text(encoding="utf-8")).get("corpus") if file else None
    if not corpus:
        return "This model does not say which texts it was adapted to: on yours it may be worse than its base model, so evaluate it first."
    size = f" ({corpus['texts']:,} clean texts)" if corpus["texts"] else ""
    return f"This model was adapted to {corpus['name'] or 'a corpus without a name'}{size}: on texts of another kind, evaluate it first."


def _described(value: Any) -> str:
    import pandas as pd

    missing = pd.api.types.is_scalar(value) and pd.isna(value)
    return "missing (null)" if missing else f"{str(value)[:80]} ({type(value).__name__})"


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> TextsOnly:
    """Load the model behind MLflow's general interface; MLflow calls this by name."""
    from mlflow.sentence_transformers import _load_pyfunc as load

    logger.warning("%s", adapted_to(Path(path)))
    return TextsOnly(load(path, model_config))
