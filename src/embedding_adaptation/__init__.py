"""Turn any small decoder-only LLM into a text embedding model that fits your texts.

    >>> from embedding_adaptation import Embedder, PromptTemplate, Strategy, adapt

The names are imported when they are first asked for: Kedro imports the package at every start, and needs none of what models need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedding_adaptation.adaptation import Adaptation, adapt
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.strategy import Strategy
    from embedding_adaptation.embedder.template import PromptTemplate

    __version__: str

__all__ = ["Adaptation", "Embedder", "PromptTemplate", "Strategy", "__version__", "adapt"]

_MODULES = {
    "Adaptation": "embedding_adaptation.adaptation",
    "Embedder": "embedding_adaptation.embedder.embedder",
    "PromptTemplate": "embedding_adaptation.embedder.template",
    "Strategy": "embedding_adaptation.embedder.strategy",
    "adapt": "embedding_adaptation.adaptation",
}


def __getattr__(name: str) -> object:
    """Import a name of ``__all__`` when it is first asked for (PEP 562)."""
    if name == "__version__":
        value: object = importlib.import_module("importlib.metadata").version("embedding-adaptation")
    elif name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
