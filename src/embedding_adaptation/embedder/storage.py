"""Embedders on disk, and where an embedder is loaded from."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedding_adaptation.atomic import replacing_folder
from embedding_adaptation.checksums import is_intact
from embedding_adaptation.embedder.after_processing import AfterProcessing
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.embedder.weights import DecoderWeights

if TYPE_CHECKING:
    from embedding_adaptation.embedder.embedder import Embedder

_FORMAT = 1
_SETTINGS = "embedder.json"
_AFTER = "after_processing.safetensors"


@dataclass(frozen=True)
class Place:
    """Where weights and settings of an embedder are.

    Attributes:
        title: What to call it.
        model: A folder or Hub id for transformers.
        adapter: A PEFT folder, or ``None``.
        loading: Further arguments for transformers' ``from_pretrained``.
        strategy: The saved embedder's strategy, or ``None``.
        max_length: The saved embedder's longest sequence, or ``None``.
    """

    title: str
    model: str
    adapter: Path | None = None
    loading: dict[str, Any] = field(default_factory=dict)
    strategy: Strategy | None = None
    max_length: int | None = None


def resolve_source(source: DecoderWeights | str | Path) -> Place:
    """Find out what an embedder is loaded from; see :meth:`Embedder.load`.

    Raises:
        BaseModelError: If the model is not there or cannot be used.
        ValueError: If a saved embedder is damaged or of a later format.
    """
    if isinstance(source, DecoderWeights):
        return Place(source.card.source, str(source.base), source.adapter)
    folder = Path(source).expanduser()
    if (folder / _SETTINGS).is_file():
        return _saved(folder)
    from embedding_adaptation.embedder.base_model import check_source, convert

    found = check_source(str(source))
    if found.kind == "folder":
        return Place(str(source), str(found.existing_path))
    if found.kind == "hub":
        return Place(str(source), found.repository, loading={"revision": found.revision} if found.revision else {})
    # A GGUF file is converted once for all later loads.
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "embedding-adaptation"
    target = cache / hashlib.sha256(f"{found.setting} {found.stamp}".encode()).hexdigest()[:24]
    if not is_intact(target):
        with replacing_folder(target, checksum=True) as work:
            convert(found, work)
    return Place(str(source), str(target))


def save_embedder(embedder: Embedder, folder: Path) -> None:
    """Write an embedder; see :meth:`Embedder.save`."""
    from safetensors.numpy import save_file

    if folder.exists():
        msg = f"{folder} is already there; choose another folder or remove it"
        raise FileExistsError(msg)
    with replacing_folder(folder) as work:
        backbone = embedder.backbone
        if hasattr(backbone, "merge_and_unload"):
            backbone = copy.deepcopy(backbone).merge_and_unload()
        backbone.save_pretrained(work, safe_serialization=True)
        embedder.tokenizer.save_pretrained(work)
        after = embedder.strategy.after
        if after is not None:
            tensors = {"mean": after.mean} if after.matrix is None else {"mean": after.mean, "matrix": after.matrix}
            save_file(tensors, work / _AFTER, metadata={"dimensions": str(after.dimensions)})
        settings = {"format": _FORMAT, "max_length": embedder.max_length, "strategy": strategy_to_dict(embedder.strategy)}
        (work / _SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def strategy_to_dict(strategy: Strategy) -> dict[str, Any]:
    """A strategy without its after-processing, for JSON."""
    return {
        "name": strategy.name,
        "templates": [{"name": t.name, "pattern": t.pattern, "bos": t.bos, "eos": t.eos} for t in strategy.templates],
        "pooling": strategy.pooling,
        "layers": list(strategy.layers),
        "normalise": strategy.normalise,
        "attention_layers": list(strategy.attention_layers),
        "attention_heads": list(strategy.attention_heads),
    }


def _saved(folder: Path) -> Place:
    from safetensors import safe_open

    settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    if settings.get("format") != _FORMAT:
        msg = f"{folder / _SETTINGS} has format {settings.get('format')!r}, this version reads {_FORMAT}; use the version that wrote it"
        raise ValueError(msg)
    values = settings["strategy"]
    after = None
    if (folder / _AFTER).is_file():
        with safe_open(folder / _AFTER, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  a safetensors file is no dict
            after = AfterProcessing(tensors["mean"], tensors.get("matrix"), int(file.metadata()["dimensions"]))
    templates = tuple(PromptTemplate(**template) for template in values["templates"])
    strategy = Strategy(
        name=values["name"],
        template=templates[0] if len(templates) == 1 else templates,
        pooling=values["pooling"],
        layers=tuple(values["layers"]),
        normalise=values["normalise"],
        attention_layers=tuple(values["attention_layers"]),
        attention_heads=tuple(values["attention_heads"]),
        after=after,
    )
    return Place(str(folder), str(folder), strategy=strategy, max_length=settings["max_length"])
