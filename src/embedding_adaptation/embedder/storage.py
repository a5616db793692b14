"""Saving embedders, and finding out what an embedder is loaded from."""

from __future__ import annotations

import copy
import json
import os
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from embedding_adaptation.atomic import replacing_folder
from embedding_adaptation.checksums import DamagedError, check_intact, checksum_file, is_intact
from embedding_adaptation.embedder.after_processing import AfterProcessing
from embedding_adaptation.embedder.base_model import (
    BaseModelError,
    BaseModelSource,
    check_source,
    convert,
    fetch,
    is_hub_setting,
)
from embedding_adaptation.embedder.checkpoint import (
    ADAPTER_CONFIG,
    check_adapter_files,
    read_json_object,
    safetensors_header,
)
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.embedder.tokenizer import load_tokenizer
from embedding_adaptation.embedder.weights import (
    ADAPTER_CARD_FILE,
    DecoderWeights,
    base_sha256,
    find_converted,
    read_adapter_base,
    reading,
)
from embedding_adaptation.identity import CorpusIdentity, digest_of, format_folder, tell_of_other_formats, weights_identity

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from embedding_adaptation.embedder.embedder import Embedder

# A reader that knows only the first would add the prompt twice in a folder of the second.
_FORMAT, _EXPORTED_FORMAT = 1, 2
_SETTINGS = "embedder.json"
_AFTER = "after_processing.safetensors"
# Incremented when conversions or their cards change, so that older ones in the cache are no longer used.
_CONVERSION = 3
_NO_POST_PROCESSOR = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {},
}
_MODULES = "modules.json"
# The versions of adapter and base model are in neighbouring folders: adapter/VERSION/adapter and base_model/VERSION/base_model.
_BASE_MODELS, _LEVELS = "base_model", 4


@dataclass(frozen=True)
class Place:
    """Where the weights and settings of an embedder are.

    Attributes:
        title: Name for messages.
        model: A folder or Hub id for transformers.
        adapter: A PEFT folder, or ``None``.
        revision: Commit of a Hub repository, or an empty string.
        strategy: The strategy that the weights are meant for, or ``None``.
        max_length: The maximum sequence length that they are meant for, or ``None``.
        post_processor: The post-processor of the model's own tokenizer if the folder's adds a prompt; otherwise ``"own"``.
        corpus: The corpus that the weights were adapted to, or ``None``.
        sha256: Hash of the base weights, if known without reading them.
    """

    title: str
    model: str
    adapter: Path | None = None
    revision: str = ""
    strategy: Strategy | None = None
    max_length: int | None = None
    post_processor: dict[str, Any] | Literal["own"] | None = "own"
    corpus: CorpusIdentity | None = None
    sha256: str = ""

    @cached_property
    def identity(self) -> str:
        """Identity of the weights, independent of their location; see :func:`~embedding_adaptation.identity.weights_identity`."""
        return weights_identity(self.sha256 or base_sha256(Path(self.model)), self.adapter)

    def tokenizer(self, rows: int) -> PreTrainedTokenizerBase:
        """The model's own tokenizer, without a prompt.

        Args:
            rows: Number of rows of the model's embedding.

        Raises:
            BaseModelError: If it gives texts ids beyond the embedding, or adds words to every text.
        """
        tokenizer = load_tokenizer(self.model, rows)
        if self.post_processor != "own":
            description = json.loads(tokenizer.backend_tokenizer.to_str())
            # None would keep the existing one; a template with only the text does nothing.
            description["post_processor"] = self.post_processor or _NO_POST_PROCESSOR
            tokenizer.backend_tokenizer.post_processor = Tokenizer.from_str(json.dumps(description)).post_processor
        _check_adds_no_words(tokenizer, self.title)
        return tokenizer


def resolve_source(
    source: DecoderWeights | str | Path, *, base: DecoderWeights | str | Path | None = None, has_strategy: bool = False
) -> Place:
    """Determine what an embedder is loaded from; see :meth:`Embedder.load`.

    Args:
        source: What to load.
        base: The base model of an adapter folder; ``None`` searches for it.
        has_strategy: Whether the caller provides a strategy, without which a sentence-transformers model cannot be loaded.

    Raises:
        BaseModelError: If the model does not exist, is damaged or cannot be used.
        ValueError: If a saved embedder has a later format.
    """
    if isinstance(source, DecoderWeights):
        place = Place(source.card.source, str(source.base), source.adapter, sha256=source.card.sha256)
        return replace(place, **_trained_under(source.adapter)) if source.adapter else place
    folder = Path(source).expanduser()
    if folder.is_dir():
        _check_intact(folder.resolve())
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        return _adapted(folder, base)
    if base is not None:
        msg = f"base was given, but {str(source)!r} is not an adapter folder (it contains no {ADAPTER_CONFIG}); omit base"
        raise BaseModelError(msg)
    if (folder / _SETTINGS).is_file():
        return _saved(folder)
    _check_names_a_model(folder, str(source))
    if (folder / _MODULES).is_file() and not has_strategy:
        raise BaseModelError(_of_sentence_transformers(str(source)))

    return _of_base_model(str(source), has_strategy=has_strategy)


def _check_intact(folder: Path) -> None:
    """Compare a folder with its checksums, if it has any."""
    try:
        check_intact(folder)
    except DamagedError as error:
        way_out = f"rerun the pipeline that writes it, or fetch it again (if it was changed on purpose, remove {checksum_file(folder)})"
        msg = f"{error}; {way_out}"
        raise BaseModelError(msg) from error


def _of_base_model(setting: str, *, has_strategy: bool) -> Place:
    """A base model as in the setting ``base_model``, or an exported embedder on the Hub."""
    checked = check_source(setting)
    if checked.kind == "hub":
        # The base of an adapter may itself be an exported embedder, which must not replace the adapter.
        exported = _exported_on_the_hub(checked, has_strategy=has_strategy) if checked.adapter is None else None
        if exported is not None:
            return exported
        checked, weights, _ = fetch(checked, Path())
        if checked.direct:
            return Place(setting, str(weights), revision=checked.revision)
    if checked.kind == "folder" and checked.direct:
        return Place(setting, str(checked.existing_path))
    # A GGUF file, an adapter or a part of a multimodal model is converted once and cached.
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "embedding-adaptation"
    target = cache / format_folder(_CONVERSION) / digest_of([checked.setting, checked.stamp])
    if not is_intact(target):
        target.parent.parent.mkdir(parents=True, exist_ok=True)
        tell_of_other_formats(str(cache), (path.name for path in cache.glob("[!.]*")), _CONVERSION)
        target.parent.mkdir(exist_ok=True)
        # A second process waits for the conversion of the first and then uses it.
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not is_intact(target):
                with replacing_folder(target, checksum=True) as work:
                    convert(checked, work)
    return Place(setting, str(target))


def load_adapter(backbone: PreTrainedModel, folder: Path) -> PeftModel:
    """Put an adapter on a decoder.

    Raises:
        BaseModelError: If the weights of the adapter do not match the decoder; PEFT would only warn and ignore them or leave them at their
            initial values.
    """
    from peft import PeftModel, get_peft_model_state_dict  # takes seconds to import and is needed only for adapters

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # refused below
        adapted = PeftModel.from_pretrained(backbone, str(folder))
    stored: set[str] = set()
    for path in folder.glob("adapter_model*.safetensors"):
        with safe_open(path, framework="np") as file:
            stored |= set(file.keys())
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    # An embedding that was saved in full with the adapter belongs to the decoder itself.
    surplus, lacking = stored - expected - set(adapted.state_dict()), expected - stored
    if lacking or surplus or not stored:
        example = f" (such as {min(surplus or lacking)!r})" if surplus or lacking else ""
        msg = (
            f"the adapter {folder} does not fit {type(backbone).__name__}: {len(surplus)} of its {len(stored)} weights have no counterpart "
            f"there, and {len(lacking)} are missing{example}; give the base model it was trained on, without its vocabulary head (load an "
            f"adapter that was trained with the head without base=, on the model that base_model_name_or_path in {ADAPTER_CONFIG} names)"
        )
        raise BaseModelError(msg)
    return adapted


def save_embedder(embedder: Embedder, folder: Path) -> None:
    """Write an embedder; see :meth:`Embedder.save`."""
    if folder.exists():
        msg = f"{folder} already exists; choose another folder or remove it"
        raise FileExistsError(msg)
    with replacing_folder(folder) as work:
        write_embedder(embedder, work)


def write_embedder(embedder: Embedder, folder: Path) -> None:
    """Write the same into an existing, empty folder."""
    backbone = embedder.backbone
    if hasattr(backbone, "merge_and_unload"):
        backbone = copy.deepcopy(backbone).merge_and_unload()
    backbone.save_pretrained(folder, safe_serialization=True)
    embedder.tokenizer.save_pretrained(folder)
    write_after(folder, embedder.strategy)
    write_settings(folder, embedder)


def write_after(folder: Path, strategy: Strategy) -> None:
    """Write a strategy's fitted after-processing, if it has any, for :meth:`Embedder.load`."""
    if strategy.after is not None:
        settings = {name: str(value) for name, value in strategy.after.settings().items()}
        save_file(strategy.after.arrays(), folder / _AFTER, metadata=settings)


def write_settings(
    folder: Path,
    embedder: Embedder,
    strategy: Strategy | None = None,
    *,
    post_processor: dict[str, Any] | Literal["own"] | None = "own",
) -> None:
    """Write what :meth:`Embedder.load` needs to know in addition to weights and tokenizer.

    Args:
        folder: A folder written by transformers.
        embedder: The embedder saved there.
        strategy: The strategy of these weights; ``None`` is the embedder's own.
        post_processor: The post-processor of the model's own tokenizer, as in ``tokenizer.json``, if the folder's tokenizer adds the prompt
            instead; ``"own"`` if the folder's tokenizer is the model's own.
    """
    settings: dict[str, Any] = {
        "format": _FORMAT,
        "max_length": embedder.max_length,
        "strategy": strategy_to_dict(strategy or embedder.strategy),
        "corpus": None if embedder.corpus is None else embedder.corpus.to_dict(),
    }
    if post_processor != "own":
        settings |= {"format": _EXPORTED_FORMAT, "tokenizer": {"post_processor": post_processor}}
    (folder / _SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
        "combine": strategy.combine,
    }


def _strategy_from_dict(values: dict[str, Any], after: AfterProcessing | None = None) -> Strategy:
    templates = tuple(PromptTemplate(**template) for template in values["templates"])
    return Strategy(
        name=values["name"],
        template=templates[0] if len(templates) == 1 else templates,
        pooling=values["pooling"],
        layers=tuple(values["layers"]),
        normalise=values["normalise"],
        attention_layers=tuple(values["attention_layers"]),
        attention_heads=tuple(values["attention_heads"]),
        after=after,
        combine=values.get("combine", "mean"),
    )


def _saved(folder: Path) -> Place:
    with reading(folder / _SETTINGS):
        settings = read_json_object(folder / _SETTINGS)
    if settings.get("format") not in {_FORMAT, _EXPORTED_FORMAT}:
        msg = (
            f"{folder / _SETTINGS} has format {settings.get('format')!r}, but this version reads {_FORMAT} and {_EXPORTED_FORMAT}; "
            "use the version that wrote it"
        )
        raise ValueError(msg)
    after = None
    if (folder / _AFTER).is_file():
        with reading(folder / _AFTER):
            safetensors_header(folder / _AFTER)
            with safe_open(folder / _AFTER, framework="np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  a safetensors file is no dict
                after = AfterProcessing.restored(tensors, file.metadata())
    own: dict[str, Any] | Literal["own"] | None
    with reading(folder / _SETTINGS):
        own = settings["tokenizer"]["post_processor"] if settings["format"] == _EXPORTED_FORMAT else "own"
        strategy = _strategy_from_dict(settings["strategy"], after)
        corpus, max_length = CorpusIdentity.from_dict(settings.get("corpus")), int(settings["max_length"])
    return Place(str(folder), str(folder), strategy=strategy, max_length=max_length, post_processor=own, corpus=corpus)


def _exported_on_the_hub(source: BaseModelSource, *, has_strategy: bool) -> Place | None:
    """An exported embedder on the Hub; ``None`` if the repository contains only a model."""

    def has(file: str) -> bool:
        try:
            hf_hub_download(source.repository, file, revision=source.revision or None)
        except LocalEntryNotFoundError:
            return False  # the Hub cannot be reached, and the file is not in the cache
        except EntryNotFoundError:
            return False
        return True

    if has(_SETTINGS):
        return _saved(
            Path(snapshot_download(source.repository, revision=source.revision or None, allow_patterns=["*.json", "*.safetensors"]))
        )
    if not has_strategy and has(_MODULES):
        raise BaseModelError(_of_sentence_transformers(source.setting))
    return None


def _of_sentence_transformers(source: str) -> str:
    return (
        f"{source!r} is a sentence-transformers model without {_SETTINGS}, so its prompt and pooling are unknown here; load it with "
        "SentenceTransformer(...), or use its decoder with a strategy of your own: Embedder.load(..., strategy=...)"
    )


def _check_names_a_model(folder: Path, source: str) -> None:
    """Refuse a folder that only contains models in subfolders, such as a folder of versions, and name the newest of them."""
    if not folder.is_dir() or (folder / "config.json").exists():
        return
    below = sorted(
        file.parent for depth in ("*", "*/*") for name in ("config.json", ADAPTER_CONFIG) for file in folder.glob(f"{depth}/{name}")
    )
    if below:
        msg = f"{source!r} contains no model itself; give the newest one below it, {str(below[-1])!r}"
        raise BaseModelError(msg)


def _check_adds_no_words(tokenizer: PreTrainedTokenizerBase, title: str) -> None:
    """Refuse a tokenizer that adds a prompt to every text, because a template would be added to it."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    added = list(tokenizer("a")["input_ids"])
    for token_id in bare:
        if token_id in added:
            added.remove(token_id)
    special = {*tokenizer.all_special_ids, *(key for key, token in tokenizer.added_tokens_decoder.items() if token.special)}
    words = [token_id for token_id in added if token_id not in special]
    if words:
        msg = (
            f"the tokenizer of {title!r} adds words to every text ({tokenizer.decode(added)!r}): it belongs to an exported model, and a "
            f"template would be added to them; give the exported folder itself, with its {_SETTINGS}, or the model it was made from"
        )
        raise BaseModelError(msg)


def _trained_under(adapter: Path) -> dict[str, Any]:
    """Strategy, maximum length and corpus with which an adapter was trained, from its card, as fields of :class:`Place`."""
    file = adapter / ADAPTER_CARD_FILE
    if not file.is_file():
        return {}
    with reading(file):
        card = read_json_object(file)
        if card.get("strategy"):
            strategy = _strategy_from_dict(card["strategy"])
        else:
            template = PromptTemplate("as trained", card["template"], eos=card["pooling"] == "eos")
            strategy = Strategy("as trained", template, card["pooling"])
        return {"strategy": strategy, "max_length": int(card["max_length"]), "corpus": CorpusIdentity.from_dict(card.get("corpus"))}


def _adapted(folder: Path, base: DecoderWeights | str | Path | None) -> Place:
    """Base model and adapter."""
    with reading(folder / ADAPTER_CONFIG):
        check_adapter_files(folder)
    has_card = (folder / ADAPTER_CARD_FILE).is_file()
    if base is None and not has_card:
        return _merged(folder)
    place = _base_of(folder) if base is None else resolve_source(base, has_strategy=True)
    if place.adapter is not None or place.strategy is not None:
        msg = f"base {place.title!r} is an adapted embedder; give the model that the adapter was trained on, without an adapter"
        raise BaseModelError(msg)
    if has_card:
        _check_base(folder, place)
    title = f"{place.title} ({folder.name} {folder.parent.name})" if has_card else str(folder)
    return replace(place, title=title, adapter=folder, **_trained_under(folder))


def _merged(folder: Path) -> Place:
    """An adapter from outside this project, merged into the base it names, as in the setting ``base_model``."""
    try:
        return _of_base_model(str(folder), has_strategy=True)
    except BaseModelError as error:
        msg = f"{error}; or give its base: Embedder.load(adapter, base=FOLDER)"
        raise BaseModelError(msg) from error


def _base_of(folder: Path) -> Place:
    """Find the base model of an adapter with a card: beside the adapter, as in the project's data folder, or at its source."""
    card = read_adapter_base(folder)
    for parent in folder.resolve().parents[:_LEVELS]:
        converted = find_converted(parent / _BASE_MODELS, card.sha256)
        if converted is not None:
            return Place(card.source, str(converted))
    source = f"{card.source.partition('@')[0]}@{card.revision}" if is_hub_setting(card.source) and card.revision else card.source
    try:
        return resolve_source(source, has_strategy=True)
    except BaseModelError as error:
        msg = (
            f"the base model of the adapter {folder} is {source!r}, which is neither in a folder {_BASE_MODELS} beside it nor available "
            f"under that name ({error}); give its folder: Embedder.load(adapter, base=FOLDER)"
        )
        raise BaseModelError(msg) from error


def _check_base(folder: Path, base: Place) -> None:
    """Check that these are the weights on which the adapter was trained."""
    card = read_adapter_base(folder)
    model = Path(base.model)
    if not model.is_dir():
        same, actual = base.revision == card.revision, f"revision {base.revision!r}"
        pinned = f"revision {card.revision!r}"
    else:
        sha256 = base_sha256(model)
        same, actual, pinned = sha256 == card.sha256, f"sha256 {sha256[:12]}...", f"sha256 {card.sha256[:12]}..."
    if not same:
        msg = (
            f"the adapter {folder} was trained on {card.source!r} ({pinned}), but {base.title!r} contains different weights ({actual}); "
            "give the model it was trained on: Embedder.load(adapter, base=FOLDER)"
        )
        raise BaseModelError(msg)
