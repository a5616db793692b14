"""Resolve a base model setting to weights on disk.

One setting names the base model, in one of these forms:

- ``package:NAME/FILE.gguf`` - a GGUF file inside an installed Python package; the package is not imported;
- ``path/to/FILE.gguf`` - a GGUF file;
- ``path/to/folder`` - a folder written by transformers (configuration, safetensors weights, tokenizer);
- ``ORGANISATION/NAME`` or ``ORGANISATION/NAME@REVISION`` - a Hugging Face Hub repository;
- ``random:tiny-llama`` - a tiny Llama with random weights, made on the spot, to try things out in seconds.

A ``#sha256=...`` behind a GGUF file is checked before the file is read.

:func:`check_source` takes well under a second and finds what can be wrong before any work; :func:`convert` then writes a folder of
safetensors, tokenizer and card. Nothing here runs code that comes with a model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import struct
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.embedder.weights import ModelCard

if TYPE_CHECKING:
    from collections.abc import Collection

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "README.md")
_RANDOM = "random:tiny-llama"
_HUB_TIMEOUT_SECONDS = 10.0
_GGUF_STRING, _GGUF_ARRAY = 8, 9
_GGUF_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class BaseModelError(RuntimeError):
    """A base model that cannot be used; the message says what is wrong and how to mend it."""


@dataclass(frozen=True)
class BaseModelSource:
    """A setting that has been looked at: what it is, and where.

    Attributes:
        setting: The setting as the user wrote it.
        kind: ``gguf`` (a file), ``folder``, ``hub`` or ``random``.
        path: The GGUF file or folder; ``None`` for the others.
        repository: Hub repository, or an empty string.
        revision: Hub commit, package version, or an empty string.
        licence: Licence as declared by the source, or ``unknown``.
        stamp: Names, sizes and modification times (or the Hub commit): changes when the source does.
    """

    setting: str
    kind: Literal["gguf", "folder", "hub", "random"]
    path: Path | None = None
    repository: str = ""
    revision: str = ""
    licence: str = "unknown"
    stamp: str = ""

    @property
    def existing_path(self) -> Path:
        """The path of a source that has one."""
        if self.path is None:
            msg = f"base_model {self.setting!r} has no path"
            raise BaseModelError(msg)
        return self.path


def check_source(setting: str, *, known_stamps: Collection[str] = ()) -> BaseModelSource:
    """Find out whether a base model can be used, without loading it.

    Args:
        setting: The setting, see the module's text.
        known_stamps: Stamps of sources that were converted before: hash and architecture of such a one are not looked at again.

    Returns:
        What :func:`convert` needs.

    Raises:
        BaseModelError: If the model is not there, its hash is wrong, the Hub does not answer, or its architecture is no decoder.
    """
    location, _, fragment = setting.partition("#")
    expected_sha256 = _expected_sha256(setting, fragment)
    if is_hub_setting(setting):
        repository, _, revision = location.partition("@")
        source = _hub_source(setting, repository, revision or "main")
    elif location == _RANDOM:
        source = BaseModelSource(setting, "random", licence="Apache-2.0")
    elif location.startswith("package:"):
        source = _package_source(setting, location.removeprefix("package:"))
    elif Path(location).expanduser().exists() or location.endswith(".gguf"):
        source = _path_source(setting, Path(location).expanduser())
    else:
        msg = (
            f"base_model {setting!r} is not a GGUF file, a folder, a Hub id or a package: no such path, and a Hub id has the form "
            "ORGANISATION/NAME@REVISION; check base_model in conf/base/globals.yml"
        )
        raise BaseModelError(msg)
    if expected_sha256 and source.kind != "gguf":
        msg = f"base_model {setting!r}: #sha256= is for GGUF files; pin a Hub model with @REVISION instead"
        raise BaseModelError(msg)
    if source.stamp in known_stamps:
        return source
    if source.kind == "folder":
        _check_configuration(setting, source.existing_path / "config.json")
    elif source.kind == "gguf":
        _check_gguf_architecture(source)
        if expected_sha256:
            _check_hash(source, expected_sha256)
    return source


def is_hub_setting(setting: str) -> bool:
    """Whether a setting names a Hub repository: it has the form of one and no such path exists."""
    location = setting.partition("#")[0]
    is_path = location.endswith(".gguf") or Path(location).expanduser().exists()
    return not is_path and _HUB_ID.match(location.partition("@")[0]) is not None


def convert(source: BaseModelSource, target: Path) -> ModelCard:
    """Write a checked source as a folder of safetensors, tokenizer and card.

    Args:
        source: What :func:`check_source` returned.
        target: An existing, empty folder.

    Returns:
        The card, which is also in the folder.

    Raises:
        BaseModelError: If the weights cannot be fetched or read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loading: dict[str, Any] = {"trust_remote_code": False}
    with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as scratch:
        folder = _fetch(source, Path(scratch))
        if source.kind == "gguf":
            from transformers import GgufConfig

            loading["gguf_file"] = source.existing_path.name
            weight_files = [source.existing_path]
            # Without this configuration the dequantised weights could not be saved.
            quantisation = {"quantization_config": GgufConfig(dequantize=True)}
            model = AutoModelForCausalLM.from_pretrained(folder, **quantisation, **loading)
        else:
            weight_files = sorted(folder.glob("*.safetensors"))
            model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **loading)
        tokenizer = AutoTokenizer.from_pretrained(folder, **loading)
        # The place they came from would end up in the saved configuration.
        model.config._name_or_path = ""  # noqa: SLF001  there is no public setter
        tokenizer.name_or_path = ""
        model.save_pretrained(target, safe_serialization=True)
        tokenizer.save_pretrained(target)
        card = ModelCard(
            source=source.setting,
            sha256=_sha256(weight_files),
            revision=source.revision,
            architecture=model.config.model_type,
            parameters=model.num_parameters(),
            licence=source.licence,
            stamp=source.stamp,
        )
    card.write(target)
    return card


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
        there = ", ".join(sorted(p.name for p in path.parent.glob("*.gguf"))) or "no GGUF file"
        msg = f"base_model {setting!r}: the package {package!r} holds {there}, not {file_name!r}; correct the file name"
        raise BaseModelError(msg)
    distribution = _distribution_of(package)
    version = metadata.version(distribution) if distribution else ""
    licence = _declared_licence(distribution) if distribution else "unknown"
    return BaseModelSource(setting, "gguf", path, revision=f"{distribution} {version}".strip(), licence=licence, stamp=_stamp([path]))


def _distribution_of(package: str) -> str | None:
    """The name of what installed a package. One of the same name is looked at first: looking at all takes half a second."""
    try:
        same = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        same = None
    if same and any(file.parts[0] == package for file in same.files or []):
        return str(same.metadata["Name"])
    return next(iter(metadata.packages_distributions().get(package, [])), None)


def _declared_licence(distribution: str) -> str:
    fields = metadata.metadata(distribution)
    return next((fields[name] for name in ("License-Expression", "License") if name in fields), "unknown")


def _path_source(setting: str, path: Path) -> BaseModelSource:
    if path.is_file():
        return BaseModelSource(setting, "gguf", path, stamp=_stamp([path]))
    if not path.is_dir():
        msg = f"base_model {setting!r}: there is no file {path.absolute()}; correct the path in conf/base/globals.yml"
        raise BaseModelError(msg)
    config = path / "config.json"
    if not config.is_file():
        msg = f"base_model {setting!r}: the folder holds no config.json; give a folder written by transformers' save_pretrained"
        raise BaseModelError(msg)
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        msg = (
            f"base_model {setting!r}: the folder holds no *.safetensors; convert the weights first "
            "(pickled .bin files are not read, because they can run code)"
        )
        raise BaseModelError(msg)
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        msg = f"base_model {setting!r}: the folder holds no tokenizer; save the model's tokenizer into it"
        raise BaseModelError(msg)
    return BaseModelSource(setting, "folder", path, licence=_folder_licence(path), stamp=_stamp([config, *weights]))


def _hub_source(setting: str, repository: str, revision: str) -> BaseModelSource:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub import errors as hub_errors

    unreachable = (
        f"base_model {setting!r}: the Hugging Face Hub does not answer and the model is not in the local cache; connect to the network "
        "(or set HF_ENDPOINT to a mirror), or set base_model to a local folder or GGUF file"
    )
    try:
        info = HfApi().model_info(repository, revision=revision, timeout=_HUB_TIMEOUT_SECONDS)
        # By name, not by commit: so the cache knows the name when the Hub is out of reach.
        config = hf_hub_download(repository, "config.json", revision=revision)
        commit = info.sha or revision
        licence = str(getattr(info.card_data, "license", None) or "unknown")
    except hub_errors.GatedRepoError as error:
        msg = f"base_model {setting!r}: access is gated; accept its terms on the Hub and log in with 'hf auth login' or HF_TOKEN"
        raise BaseModelError(msg) from error
    except hub_errors.RevisionNotFoundError as error:
        msg = f"base_model {setting!r}: the repository has no revision {revision!r}; give a branch, tag or commit it has"
        raise BaseModelError(msg) from error
    except hub_errors.RepositoryNotFoundError as error:
        msg = (
            f"base_model {setting!r}: neither a local path nor a repository the Hub shows you; check the spelling, "
            "or log in with 'hf auth login' if it is private"
        )
        raise BaseModelError(msg) from error
    except hub_errors.LocalEntryNotFoundError as error:
        raise BaseModelError(unreachable) from error
    except hub_errors.EntryNotFoundError as error:
        msg = f"base_model {setting!r}: the repository holds no config.json, so it is no transformers model; choose another"
        raise BaseModelError(msg) from error
    except Exception as error:  # noqa: BLE001  what a broken connection raises belongs to the Hub client's HTTP library, which has changed
        try:
            config = hf_hub_download(repository, "config.json", revision=revision, local_files_only=True)
        except (hub_errors.LocalEntryNotFoundError, OSError):
            raise BaseModelError(unreachable) from error
        commit, licence = Path(config).parent.name, "unknown"
    _check_configuration(setting, Path(config))
    return BaseModelSource(setting, "hub", repository=repository, revision=commit, licence=licence, stamp=f"{repository}@{commit}")


def _fetch(source: BaseModelSource, scratch: Path) -> Path:
    """A folder transformers can load from."""
    if source.kind == "gguf":
        return source.existing_path.parent
    if source.kind == "folder":
        return source.existing_path
    if source.kind == "random":
        from embedding_adaptation.embedder.tiny import write_tiny_llama

        write_tiny_llama(scratch)
        return scratch
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(source.repository, revision=source.revision, allow_patterns=list(_HUB_FILES))
    except Exception as error:  # as above
        msg = f"base_model {source.setting!r}: the download broke off ({error}); run the same command again, what is there is kept"
        raise BaseModelError(msg) from error
    if not list(Path(folder).glob("*.safetensors")):
        msg = f"base_model {source.setting!r}: the repository holds no *.safetensors; choose a revision or repository that does"
        raise BaseModelError(msg)
    return Path(folder)


def _check_configuration(setting: str, file: Path) -> None:
    """Refuse what is no decoder-only language model of transformers, by its configuration alone."""
    config = json.loads(file.read_text(encoding="utf-8"))
    model_type = str(config.get("model_type", "none"))
    if config.get("is_encoder_decoder"):
        _refuse(setting, f"{model_type!r} is an encoder-decoder model")
    from transformers.models.auto import modeling_auto

    if model_type not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            _refuse(setting, f"{model_type!r} is an encoder-only model")
        remote = " (it brings its own code, which is not run)" if "auto_map" in config else ""
        _refuse(setting, f"transformers knows no decoder of type {model_type!r}{remote}")
    if model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        # BERT's family is listed as decoders too, for use inside encoder-decoder models.
        _refuse(setting, f"{model_type!r} is an encoder-only model")


def _check_gguf_architecture(source: BaseModelSource) -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    architecture = _gguf_architecture(source)
    if architecture in {"t5", "umt5"}:
        _refuse(source.setting, f"{architecture!r} is an encoder-decoder model")
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        kind = "an encoder-only model" if "bert" in architecture else "an architecture transformers cannot read from GGUF"
        _refuse(source.setting, f"{architecture!r} is {kind}")


def _refuse(setting: str, reason: str) -> None:
    msg = f"base_model {setting!r}: {reason}; give a decoder-only language model, such as Llama, Qwen, Mistral or SmolLM"
    raise BaseModelError(msg)


def _gguf_architecture(source: BaseModelSource) -> str:
    """Read ``general.architecture``, which the format puts among the first keys; reading the whole header takes seconds.

    Reference: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    broken = f"base_model {source.setting!r}: {source.existing_path.name} is not a readable GGUF file; fetch it again"
    with source.existing_path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise BaseModelError(broken)
        try:
            _, _, count = struct.unpack("<IQQ", file.read(20))  # version, tensors, keys
            for _ in range(count):
                key = file.read(struct.unpack("<Q", file.read(8))[0])
                kind = struct.unpack("<I", file.read(4))[0]
                if kind == _GGUF_STRING:
                    value = file.read(struct.unpack("<Q", file.read(8))[0])
                    if key == b"general.architecture":
                        return value.decode("utf-8")
                elif kind in _GGUF_SCALAR_BYTES:
                    file.seek(_GGUF_SCALAR_BYTES[kind], 1)
                else:  # an array: the vocabulary has begun, the general keys are over
                    break
        except (struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
            raise BaseModelError(broken) from error
    msg = f"base_model {source.setting!r}: {source.existing_path.name} does not name its architecture; convert it again with a current tool"
    raise BaseModelError(msg)


def _expected_sha256(setting: str, fragment: str) -> str:
    if not fragment:
        return ""
    key, _, value = fragment.partition("=")
    if key != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", value):
        msg = f"base_model {setting!r}: after '#' comes sha256= and 64 hexadecimal digits in lower case"
        raise BaseModelError(msg)
    return value


def _check_hash(source: BaseModelSource, expected: str) -> None:
    found = _sha256([source.existing_path])
    if found != expected:
        msg = (
            f"base_model {source.setting!r}: the file's sha256 is {found}; it is damaged or another version: "
            "fetch it again, or correct the hash if the new file is the one you want"
        )
        raise BaseModelError(msg)


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _stamp(files: list[Path]) -> str:
    return ";".join(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in files)


def _folder_licence(folder: Path) -> str:
    readme = folder / "README.md"
    if readme.is_file():
        found = re.search(r"^license:\s*(\S+)\s*$", readme.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        if found:
            return found.group(1)
    return "unknown"
