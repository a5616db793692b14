"""Resolving a base model setting to weights on disk.

The setting has one of these forms:

- ``package:NAME/FILE.gguf`` - a GGUF file inside an installed Python package; the package is not imported;
- ``path/to/FILE.gguf`` - a GGUF file;
- ``path/to/folder`` - a folder written by transformers (configuration, safetensors weights, tokenizer), or that of a PEFT adapter, which is
  merged into the base it names;
- ``ORGANISATION/NAME`` or ``ORGANISATION/NAME@REVISION`` - a Hugging Face Hub repository;
- ``random:tiny-llama`` - a tiny Llama with random weights, generated on the fly, for trying things out in seconds.

A ``#sha256=...`` after a GGUF file is checked before the file is read.

:func:`check_source` takes well under a second and finds errors before any work starts; :func:`convert` then writes a folder with
safetensors, tokenizer and card. Of a multimodal model, only the text decoder is written. Code that comes with a model is never run.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.embedder.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    INDEX,
    BaseModelError,
    check_adapter_files,
    check_not_quantised,
    check_tokenizer_files,
    checkpoint_tensors,
    decisive_files,
    read_json_object,
    tokens_beyond,
)
from embedding_adaptation.embedder.families import check_family
from embedding_adaptation.embedder.gguf_file import check_gguf_file, parsed_once, read_gguf_header
from embedding_adaptation.embedder.weights import ModelCard
from embedding_adaptation.identity import files_sha256

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from transformers import PreTrainedModel

    from embedding_adaptation.embedder.loading import Contents

__all__ = ["BaseModelError", "BaseModelSource", "check_source", "convert", "fetch", "is_hub_setting"]
logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "README.md")
# Duplicates of the weights in another layout, and subfolders: none of them is read.
_HUB_LEFT_OUT = ("consolidated*", "*/*")
_RANDOM = "random:tiny-llama"
_HUB_TIMEOUT_SECONDS = 10.0
# State-space models under llama.cpp's names.
_GGUF_TYPES = {"mamba": "mamba", "mamba2": "mamba2", "falcon-h1": "falcon_h1", "jamba": "jamba", "nemotron_h": "nemotron_h", "rwkv": "rwkv"}


@dataclass(frozen=True)
class BaseModelSource:
    """A checked setting: what it refers to, and where that is.

    Attributes:
        setting: The setting as written by the user.
        kind: ``gguf`` (a file), ``folder``, ``hub`` or ``random``.
        path: The GGUF file or folder; ``None`` for other kinds.
        repository: Hub repository, or an empty string.
        revision: Hub commit, package version, or an empty string.
        licence: Licence as declared by the source, or ``unknown``.
        stamp: Names, sizes and modification times (or the Hub commit), which change when the source does.
        adapter: The folder of a PEFT adapter to merge into the weights, or ``None``.
        direct: Whether a folder's weights can be loaded as they are, without conversion.
    """

    setting: str
    kind: Literal["gguf", "folder", "hub", "random"]
    path: Path | None = None
    repository: str = ""
    revision: str = ""
    licence: str = "unknown"
    stamp: str = ""
    adapter: Path | None = None
    direct: bool = True

    @property
    def existing_path(self) -> Path:
        """The path.

        Raises:
            BaseModelError: If there is none.
        """
        if self.path is None:
            msg = f"base_model {self.setting!r} has no path"
            raise BaseModelError(msg)
        return self.path


def check_source(setting: str, *, known_stamps: Collection[str] = (), relative_to: Path | None = None) -> BaseModelSource:
    """Check whether a base model can be used, without loading it.

    Args:
        setting: The setting, in one of the forms above.
        known_stamps: Stamps of sources that have already been converted; their hash and architecture are not checked again.
        relative_to: The folder that relative paths start from; ``None`` is the current directory.

    Returns:
        The source, for :func:`convert`.

    Raises:
        BaseModelError: If the model does not exist, its hash is wrong, the Hub does not answer, its architecture is not supported, or a
            file or tensor is missing, damaged, quantised or of another model.
    """
    with _about(setting):
        return _check_source(setting, known_stamps, relative_to)


def _check_source(setting: str, known_stamps: Collection[str], relative_to: Path | None) -> BaseModelSource:
    location, fragment = _split_hash(setting, relative_to)
    expected_sha256 = _expected_sha256(setting, fragment)
    path = _path(location, relative_to)
    if is_hub_setting(setting, relative_to=relative_to):
        repository, _, revision = location.partition("@")
        source = _hub_source(setting, repository, revision or "main")
    elif location == _RANDOM:
        source = BaseModelSource(setting, "random", licence="Apache-2.0")
    elif location.startswith("package:"):
        source = _package_source(setting, location.removeprefix("package:"))
    elif path.exists() or location.endswith(".gguf"):
        source = _path_source(setting, path, relative_to)
    else:
        msg = (
            f"base_model {setting!r} is not a GGUF file, a folder, a Hub id or a package: no such path exists, and a Hub id has the form "
            "ORGANISATION/NAME@REVISION; check base_model in conf/base/globals.yml"
        )
        raise BaseModelError(msg)
    if expected_sha256 and source.kind != "gguf":
        msg = f"base_model {setting!r}: #sha256= is for GGUF files; pin a Hub model with @REVISION instead"
        raise BaseModelError(msg)
    if source.stamp in known_stamps:
        return source
    if source.kind == "folder":
        return _checked_folder(source, source.existing_path)[0]
    if source.kind == "gguf":
        _check_gguf(source)
        if expected_sha256:
            _check_hash(source, expected_sha256)
    return source


def is_hub_setting(setting: str, *, relative_to: Path | None = None) -> bool:
    """Whether a setting names a Hub repository: it has the form of a Hub id, and no such path exists."""
    location, _ = _split_hash(setting, relative_to)
    is_path = location.endswith(".gguf") or _path(location, relative_to).exists()
    return not is_path and _HUB_ID.match(location.partition("@")[0]) is not None


def _split_hash(setting: str, relative_to: Path | None) -> tuple[str, str]:
    """The parts before and after the ``#`` of a hash; a path may itself contain a ``#``."""
    location, _, fragment = setting.rpartition("#")
    if not location or re.search(r"[\s./\\]", fragment) or _path(setting, relative_to).exists():
        return setting, ""
    return location, fragment


def _path(location: str, relative_to: Path | None) -> Path:
    return (relative_to or Path()) / os.path.expanduser(location)  # noqa: PTH111  Path.expanduser fails if there is no such user


def convert(source: BaseModelSource, target: Path) -> ModelCard:
    """Write a checked source as a folder with safetensors, tokenizer and card.

    Args:
        source: The result of :func:`check_source`.
        target: An existing, empty folder.

    Returns:
        The card, which is also written to the folder.

    Raises:
        BaseModelError: If the weights cannot be fetched or read.
    """
    from embedding_adaptation.embedder.loading import merge_adapter_folder
    from embedding_adaptation.embedder.tokenizer import load_tokenizer

    parsed = parsed_once() if source.kind == "gguf" else nullcontext()
    with _about(source.setting), tempfile.TemporaryDirectory(prefix=scratch_prefix()) as scratch, parsed:
        source, folder, contents = fetch(source, Path(scratch))
        model = _load(source, folder, contents, Path(scratch))
        rows = int(model.get_input_embeddings().weight.shape[0])
        reading = {"gguf_file": source.existing_path.name} if source.kind == "gguf" else {}
        tokenizer = load_tokenizer(folder, rows, **reading)
        files = [source.existing_path] if source.kind == "gguf" else decisive_files(folder)
        if source.adapter is not None:
            model = merge_adapter_folder(model, source.adapter)
            files = [*files, source.adapter / ADAPTER_WEIGHTS, source.adapter / ADAPTER_CONFIG]
        # Otherwise the source path would end up in the saved configuration.
        model.config._name_or_path = ""  # noqa: SLF001  there is no public setter
        model.save_pretrained(target, safe_serialization=True)
        tokenizer.save_pretrained(target)
        card = ModelCard(
            source=source.setting,
            sha256=files_sha256(files),
            revision=source.revision,
            architecture=model.config.model_type,
            parameters=model.num_parameters(),
            licence=source.licence,
            stamp=source.stamp,
        )
    card.write(target)
    return card


def fetch(source: BaseModelSource, scratch: Path) -> tuple[BaseModelSource, Path, Contents | None]:
    """Fetch a checked source to this machine.

    Args:
        source: The result of :func:`check_source`.
        scratch: An empty folder for generated weights.

    Returns:
        The source, completed with what is known only now; a folder that transformers can load from; and its contents (``None`` for a GGUF
        file).

    Raises:
        BaseModelError: If the weights cannot be fetched or are incomplete.
    """
    if source.kind == "gguf":
        return source, source.existing_path.parent, None
    if source.kind == "folder":
        folder = source.existing_path
    elif source.kind == "random":
        from embedding_adaptation.embedder.tiny import write_tiny_llama

        folder = scratch / "random"
        folder.mkdir()
        write_tiny_llama(folder)
    else:
        folder = _download(source)
    with _about(source.setting):
        return _with_contents(source, folder)


def _with_contents(source: BaseModelSource, folder: Path) -> tuple[BaseModelSource, Path, Contents]:
    checked, contents = _checked_folder(source, folder)
    return checked, folder, contents


def _load(source: BaseModelSource, folder: Path, contents: Contents | None, scratch: Path) -> PreTrainedModel:
    from embedding_adaptation.embedder.loading import load_causal, load_contents, without_adapter

    if contents is None:
        from transformers import GgufConfig

        # Without this configuration, the dequantised weights could not be saved.
        quantisation = {"quantization_config": GgufConfig(dequantize=True)}
        return load_causal(folder, gguf_file=source.existing_path.name, trust_remote_code=False, **quantisation)
    if (folder / ADAPTER_CONFIG).is_file():
        folder = without_adapter(folder, scratch)
    return load_contents(folder, contents)


@contextmanager
def _about(setting: str) -> Iterator[None]:
    """Prefix error messages with the setting they are about."""
    try:
        yield
    except BaseModelError as error:
        if str(error).startswith("base_model "):
            raise
        msg = f"base_model {setting!r}: {error}"
        raise BaseModelError(msg) from error


def _package_source(setting: str, location: str) -> BaseModelSource:
    package, _, file_name = location.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        msg = (
            f"base_model {setting!r}: the Python package {package!r} is not installed; run 'make setup' "
            "(it installs requirements-model.txt), or set base_model in conf/base/globals.yml to a GGUF file, a folder or a Hub id"
        )
        raise BaseModelError(msg)
    path = Path(next(iter(spec.submodule_search_locations))) / file_name
    if not path.is_file():
        available = ", ".join(sorted(p.name for p in path.parent.glob("*.gguf"))) or "no GGUF file"
        msg = f"base_model {setting!r}: the package {package!r} contains {available}, not {file_name!r}; correct the file name"
        raise BaseModelError(msg)
    distribution = _distribution_of(package)
    version = metadata.version(distribution) if distribution else ""
    licence = _declared_licence(distribution) if distribution else "unknown"
    return BaseModelSource(setting, "gguf", path, revision=f"{distribution} {version}".strip(), licence=licence, stamp=_stamp([path]))


def _distribution_of(package: str) -> str | None:
    """The distribution that installed a package. The one of the same name is tried first, because searching all takes half a second."""
    try:
        namesake = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        namesake = None
    if namesake and any(file.parts[0] == package for file in namesake.files or []):
        return str(namesake.metadata["Name"])
    return next(iter(metadata.packages_distributions().get(package, [])), None)


def _declared_licence(distribution: str) -> str:
    fields = metadata.metadata(distribution)
    return next((fields[name] for name in ("License-Expression", "License") if name in fields), "unknown")


def _path_source(setting: str, path: Path, relative_to: Path | None) -> BaseModelSource:
    if path.is_file():
        return BaseModelSource(setting, "gguf", path, stamp=_stamp([path]))
    if not path.is_dir():
        msg = f"base_model {setting!r}: the file {path.absolute()} does not exist; correct the path in conf/base/globals.yml"
        raise BaseModelError(msg)
    config = path / "config.json"
    if not config.is_file():
        if (path / ADAPTER_CONFIG).is_file():
            return _adapter_source(setting, path, relative_to)
        msg = f"base_model {setting!r}: the folder contains no config.json; give a folder written by transformers' save_pretrained"
        raise BaseModelError(msg)
    names = (INDEX, ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    files = [*decisive_files(path), *(path / name for name in names if (path / name).is_file())]
    check_tokenizer_files(path)
    return BaseModelSource(setting, "folder", path, licence=_folder_licence(path), stamp=_stamp(files))


def _adapter_source(setting: str, path: Path, relative_to: Path | None) -> BaseModelSource:
    """An adapter folder: the base it names, with the adapter to merge into it."""
    base_name = check_adapter_files(path).get("base_model_name_or_path")
    advice = f"write the path or Hub id of its base into base_model_name_or_path of {path / ADAPTER_CONFIG}"
    if not base_name:
        msg = f"base_model {setting!r}: the folder contains an adapter that does not name its base; {advice}"
        raise BaseModelError(msg)
    try:
        base = _check_source(str(base_name), (), relative_to)
    except BaseModelError as error:
        msg = f"base_model {setting!r}: the folder contains an adapter whose base {str(base_name)!r} cannot be used ({error}); {advice}"
        raise BaseModelError(msg) from error
    if base.adapter is not None:
        msg = (
            f"base_model {setting!r}: the base {str(base_name)!r} of the adapter in this folder is itself an adapter; merge that one first"
        )
        raise BaseModelError(msg)
    stamp = f"{base.stamp};{_stamp([path / ADAPTER_CONFIG, path / ADAPTER_WEIGHTS])}"
    return replace(base, setting=setting, stamp=stamp, adapter=path, direct=False)


def _checked_folder(source: BaseModelSource, folder: Path) -> tuple[BaseModelSource, Contents]:
    """Check everything in a folder that can be wrong."""
    from embedding_adaptation.embedder.loading import check_contents

    config = read_json_object(folder / "config.json")
    check_not_quantised(config)
    check_family(config)
    check_tokenizer_files(folder)
    tensors = checkpoint_tensors(folder)
    check_not_quantised(config, tensors)
    contents = check_contents(folder, tensors)
    left_out = tokens_beyond(folder, contents.rows)
    adapter = source.adapter
    if adapter is None and (folder / ADAPTER_CONFIG).is_file():
        check_adapter_files(folder)
        logger.warning(
            "base_model %r: the folder also contains an adapter, which is merged into the weights; remove %s to use the plain base",
            source.setting, ADAPTER_CONFIG,
        )  # fmt: skip
        adapter = folder
    direct = adapter is None and not contents.nested and not left_out
    return replace(source, adapter=adapter, direct=direct), contents


def _hub_source(setting: str, repository: str, revision: str) -> BaseModelSource:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub import errors as hub_errors

    unreachable = (
        f"base_model {setting!r}: the Hugging Face Hub does not answer and the model is not in the local cache; connect to the network "
        "(or set HF_ENDPOINT to a mirror), or set base_model to a local folder or GGUF file"
    )
    try:
        info = HfApi().model_info(repository, revision=revision, timeout=_HUB_TIMEOUT_SECONDS)
        # By name rather than by commit, so that the cache knows the name when the Hub cannot be reached.
        config = hf_hub_download(repository, "config.json", revision=revision)
        commit = info.sha or revision
        licence = str(getattr(info.card_data, "license", None) or "unknown")
    except hub_errors.GatedRepoError as error:
        msg = f"base_model {setting!r}: access is gated; accept its terms on the Hub and log in with 'hf auth login' or HF_TOKEN"
        raise BaseModelError(msg) from error
    except hub_errors.RevisionNotFoundError as error:
        msg = f"base_model {setting!r}: the repository has no revision {revision!r}; give an existing branch, tag or commit"
        raise BaseModelError(msg) from error
    except hub_errors.RepositoryNotFoundError as error:
        msg = (
            f"base_model {setting!r}: neither a local path nor a Hub repository that you have access to; check the spelling, "
            "or log in with 'hf auth login' if it is private"
        )
        raise BaseModelError(msg) from error
    except hub_errors.LocalEntryNotFoundError as error:
        raise BaseModelError(unreachable) from error
    except hub_errors.EntryNotFoundError as error:
        msg = (
            f"base_model {setting!r}: the repository contains no config.json, so it is no complete transformers model; choose another "
            "(if it contains only an adapter, fetch it with 'hf download' and give the folder)"
        )
        raise BaseModelError(msg) from error
    except Exception as error:  # noqa: BLE001  a broken connection raises an error of the Hub client's HTTP library, which has changed
        try:
            config = hf_hub_download(repository, "config.json", revision=revision, local_files_only=True)
        except (hub_errors.LocalEntryNotFoundError, OSError):
            raise BaseModelError(unreachable) from error
        commit, licence = Path(config).parent.name, "unknown"
    content = read_json_object(Path(config))
    check_not_quantised(content)
    check_family(content)
    return BaseModelSource(setting, "hub", repository=repository, revision=commit, licence=licence, stamp=f"{repository}@{commit}")


def _download(source: BaseModelSource) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            source.repository, revision=source.revision, allow_patterns=list(_HUB_FILES), ignore_patterns=list(_HUB_LEFT_OUT)
        )
    except Exception as error:  # as above
        msg = f"base_model {source.setting!r}: the download failed ({error}); run the same command again: finished files are kept"
        raise BaseModelError(msg) from error
    return Path(folder)


def _check_gguf(source: BaseModelSource) -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    header = read_gguf_header(source.existing_path)
    architecture = header.architecture
    if architecture in {"t5", "umt5"}:
        _refuse(source.setting, f"{architecture!r} is an encoder-decoder model")
    if architecture and architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        kind = "an encoder-only model" if "bert" in architecture else "an architecture transformers cannot read from GGUF"
        _refuse(source.setting, f"{architecture!r} is {kind}")
    if architecture:
        check_family({"model_type": _GGUF_TYPES.get(architecture, "llama")})
    check_gguf_file(source.existing_path, header)


def _refuse(setting: str, reason: str) -> None:
    msg = f"base_model {setting!r}: {reason}; give a decoder-only language model, such as Llama, Qwen, Mistral or SmolLM"
    raise BaseModelError(msg)


def _expected_sha256(setting: str, fragment: str) -> str:
    if not fragment:
        return ""
    key, _, value = fragment.partition("=")
    if key != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", value):
        msg = f"base_model {setting!r}: '#' must be followed by sha256= and 64 lower-case hexadecimal digits"
        raise BaseModelError(msg)
    return value


def _check_hash(source: BaseModelSource, expected: str) -> None:
    sha256 = files_sha256([source.existing_path])
    if sha256 != expected:
        msg = (
            f"base_model {source.setting!r}: the file's sha256 is {sha256}, so it is damaged or a different version; "
            "fetch it again, or correct the hash if this is the file you want"
        )
        raise BaseModelError(msg)


def _stamp(files: list[Path]) -> str:
    return ";".join(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in files)


def _folder_licence(folder: Path) -> str:
    readme = folder / "README.md"
    if readme.is_file():
        licence = re.search(r"^license:\s*(\S+)\s*$", readme.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        if licence:
            return licence.group(1)
    return "unknown"
