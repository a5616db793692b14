"""Checks of a model folder without loading it: headers, indices and JSON, a few kilobytes however large the weights are.

Every function raises :class:`BaseModelError` with one sentence that says what is wrong with which file and what to do; the caller prefixes
the setting. Reference: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")
# Includes the end tokens (generation_config.json) and the chat template.
_TOKENIZER_PARTS = (
    *TOKENIZER_FILES, "merges.txt", "vocab.txt", "added_tokens.json", "special_tokens_map.json", "generation_config.json",
    "chat_template.jinja",
)  # fmt: skip
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors$")
_POINTER = b"version https://git-lfs.github.com/spec/"
_LONGEST_HEADER = 100_000_000  # the limit of the format
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip
_FLOATS = {"F16", "BF16", "F32", "F64"}
# Common quantisation methods, and the suffix that distinguishes their repositories from those of the original.
_QUANTISED_NAMES = {
    "gptq": "-GPTQ", "awq": "-AWQ", "bitsandbytes": "-bnb-4bit", "fp8": "-FP8", "fbgemm_fp8": "-FP8",
    "compressed-tensors": "-FP8 or -W4A16", "mxfp4": "-MXFP4", "eetq": "-EETQ", "hqq": "-HQQ", "aqlm": "-AQLM",
}  # fmt: skip


class BaseModelError(RuntimeError):
    """A base model that cannot be used; the message says what is wrong and how to fix it."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's dtype, as safetensors names it, and shape."""

    dtype: str
    shape: tuple[int, ...]


def is_pointer(file: Path) -> bool:
    """Whether a file is only the pointer to a file that Git LFS has not fetched."""
    with file.open("rb") as content:
        return content.read(len(_POINTER)) == _POINTER


def check_no_pointer(file: Path) -> None:
    """Check that a file is not a Git LFS pointer.

    Raises:
        BaseModelError: If it is.
    """
    if is_pointer(file):
        msg = f"{file.name} is a Git LFS pointer, not the file itself; run 'git lfs pull' in its folder, or fetch it with 'hf download'"
        raise BaseModelError(msg)


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        BaseModelError: If it is a Git LFS pointer or not JSON.
    """
    check_no_pointer(file)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        msg = f"{file.name} is not UTF-8 text (byte {error.start}); fetch it again"
        raise BaseModelError(msg) from error
    except json.JSONDecodeError as error:
        msg = f"{file.name} is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); fetch it again or correct it"
        raise BaseModelError(msg) from error


def read_json_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        BaseModelError: If it contains something else or cannot be read.
    """
    value = read_json(file)
    if not isinstance(value, dict):
        msg = f"{file.name} contains a {type(value).__name__}, not a JSON object; fetch it again"
        raise BaseModelError(msg)
    return value


def safetensors_header(file: Path) -> dict[str, TensorInfo]:
    """Read the tensors of a safetensors file from its header, and check that the file is complete.

    Raises:
        BaseModelError: If the file is truncated, a Git LFS pointer or not a safetensors file.
    """
    check_no_pointer(file)
    size = file.stat().st_size
    broken = f"{file.name} is not a safetensors file; fetch it again"
    with file.open("rb") as content:
        start = content.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LONGEST_HEADER + 1  # noqa: PLR2004  the format's first number
        if not 2 <= length <= _LONGEST_HEADER:  # noqa: PLR2004  an empty object
            raise BaseModelError(broken)
        if 8 + length > size:
            msg = f"{file.name} is truncated: it has {size:,} bytes, but its header alone needs {length:,}; fetch it again"
            raise BaseModelError(msg)
        try:
            entries = json.loads(content.read(length))
            entries.pop("__metadata__", None)
            tensors = {name: TensorInfo(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
            end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            sizes = {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise BaseModelError(broken) from error
    if size < end:
        msg = f"{file.name} is truncated: it has {size:,} of {end:,} bytes; fetch it again"
        raise BaseModelError(msg)
    for name, tensor in tensors.items():
        bits = _BITS.get(tensor.dtype)
        if bits is not None and sizes[name] * 8 != math.prod(tensor.shape) * bits:
            declared = f"{name} of shape {list(tensor.shape)} in {tensor.dtype}"
            msg = f"{file.name} is damaged: {declared} takes up {sizes[name]:,} bytes; fetch it again"
            raise BaseModelError(msg)
    return tensors


def decisive_files(folder: Path) -> list[Path]:
    """The files that determine what a folder's model computes: weights, configuration and tokenizer, in a fixed order.

    Raises:
        BaseModelError: If there are no weights, or index and shards do not match.
    """
    return [*weight_files(folder), *(folder / name for name in ("config.json", *_TOKENIZER_PARTS) if (folder / name).is_file())]


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, sorted by name: a single file, or the shards listed in an index.

    Raises:
        BaseModelError: If there are none, or index and shards do not match.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _indexed_files(folder)
    present = sorted(path.name for path in folder.glob("*.safetensors") if path.name != ADAPTER_WEIGHTS)
    shards = [match for name in present if (match := _SHARD.match(name))]
    if shards:
        msg = f"it contains {len(shards)} of {int(shards[0]['count'])} shards but no {INDEX}, which lists their contents; fetch it as well"
    elif present:
        msg = f"it contains {', '.join(present[:3])}, but transformers reads {WEIGHTS}; rename the file, or fetch the whole repository"
    else:
        msg = "it contains no *.safetensors file; convert the weights first (pickled .bin files are not read, because they can run code)"
    raise BaseModelError(msg)


def _indexed_files(folder: Path) -> list[Path]:
    places = read_json_object(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        msg = f"{INDEX} has no weight_map; fetch it again"
        raise BaseModelError(msg)
    names = sorted(set(places.values()))
    outside = [name for name in names if "/" in name or "\\" in name]
    if outside:
        msg = f"{INDEX} names {outside[0]!r}, which is not in its folder; fetch it again"
        raise BaseModelError(msg)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        msg = f"{len(missing)} of the {len(names)} shards listed in {INDEX} {verb} missing: {_some(missing)}; fetch what is missing"
        raise BaseModelError(msg)
    return [folder / name for name in names]


def checkpoint_tensors(folder: Path) -> dict[str, TensorInfo]:
    """All tensors of a folder's weights, from the headers of their files.

    Raises:
        BaseModelError: If a file is damaged, or the index does not match the shards.
    """
    files = weight_files(folder)
    by_name: dict[str, tuple[str, TensorInfo]] = {}
    for file in files:
        for name, tensor in safetensors_header(file).items():
            if name in by_name:
                msg = f"{name} is in both {by_name[name][0]} and {file.name}, so the folder mixes two versions; fetch it again"
                raise BaseModelError(msg)
            by_name[name] = (file.name, tensor)
    if files[0].name != WEIGHTS:
        places = read_json_object(folder / INDEX)["weight_map"]
        wrong = [name for name, place in places.items() if name not in by_name or by_name[name][0] != place]
        extra = [name for name in by_name if name not in places]
        if wrong or extra:
            name = (wrong or extra)[0]
            actual = f"in {by_name[name][0]}" if name in by_name else "in no shard"
            listed = f"{INDEX} puts {name} in {places[name]}" if name in places else f"{INDEX} does not list {name}"
            msg = f"{listed}, but it is {actual} ({_counted(len(wrong) + len(extra), 'tensor')} affected); fetch index and shards again"
            raise BaseModelError(msg)
    return {name: tensor for name, (_, tensor) in by_name.items()}


def check_not_quantised(config: dict[str, Any], tensors: dict[str, TensorInfo] | None = None) -> None:
    """Check that weights are not quantised.

    Args:
        config: The contents of config.json.
        tensors: The tensors of the weight files, if known.

    Raises:
        BaseModelError: If they are quantised; the message says what to give instead.
    """
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        settings = part.get("quantization_config")
        if not settings:
            continue
        named = settings.get("quant_method") if isinstance(settings, dict) else None
        method = str(named or ("bitsandbytes" if isinstance(settings, dict) and settings.get("load_in_4bit") else "an unknown method"))
        suffix = f" (often the same name without {_QUANTISED_NAMES[method]})" if method in _QUANTISED_NAMES else ""
        msg = (
            f"the checkpoint is quantised ({method}), so adapters cannot be merged into it; give the model it was made from{suffix}, "
            "or a GGUF file, which is dequantised"
        )
        raise BaseModelError(msg)
    odd = [(name, tensor) for name, tensor in (tensors or {}).items() if tensor.dtype not in _FLOATS and name.endswith("weight")]
    if odd:
        msg = (
            f"{odd[0][0]} is stored as {odd[0][1].dtype}, so the checkpoint is quantised; give the model it was made from, "
            "or a GGUF file, which is dequantised"
        )
        raise BaseModelError(msg)


def check_tokenizer_files(folder: Path) -> None:
    """Check that the files of a folder's tokenizer exist and can be read.

    Raises:
        BaseModelError: If not.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        msg = "it contains no tokenizer; save the model's tokenizer there"
        raise BaseModelError(msg)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json"):
        if (folder / name).is_file():
            read_json_object(folder / name)
    for name in ("tokenizer.model", "spiece.model", "merges.txt", "vocab.json", "vocab.txt"):
        if (folder / name).is_file():
            check_no_pointer(folder / name)


def tokens_beyond(folder: Path, rows: int) -> dict[str, int]:
    """The tokens in a folder's tokenizer.json for which the embedding has no row.

    Args:
        folder: The folder.
        rows: Number of rows of the embedding.

    Returns:
        Ids of the tokens that can be dropped: special ones that no text needs, usually for padding or images.

    Raises:
        BaseModelError: If texts could be given such ids.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        return {}
    description = read_json_object(file)
    try:
        added = {entry["content"]: (int(entry["id"]), bool(entry.get("special"))) for entry in description.get("added_tokens") or []}
        vocabulary = (description.get("model") or {}).get("vocab") or {}
        if isinstance(vocabulary, list):  # a Unigram model's: token and score, in the order of the ids
            vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        msg = f"tokenizer.json is not in the format of the tokenizers library ({type(error).__name__}: {error}); save the tokenizer again"
        raise BaseModelError(msg) from error
    needed = {token: number for token, number in vocabulary.items() if number >= rows and token not in added}
    needed |= {token: number for token, (number, special) in added.items() if number >= rows and not special}
    if needed:
        raise BaseModelError(beyond_message(needed, rows))
    return {token: number for token, (number, _) in added.items() if number >= rows}


def beyond_message(tokens: dict[str, int], rows: int) -> str:
    """The error message for tokens that texts need and the embedding lacks."""
    named = ", ".join(f"{token!r} ({number})" for token, number in sorted(tokens.items(), key=lambda item: item[1])[:3])
    return (
        f"the tokenizer has {_counted(len(tokens), 'token')} beyond the embedding's {rows:,} rows: {named}; call "
        "model.resize_token_embeddings(len(tokenizer)), train and save the model with them, or give the tokenizer it was trained with"
    )


def check_adapter_files(folder: Path) -> dict[str, Any]:
    """Check from its files that a PEFT adapter can be merged.

    Returns:
        The contents of adapter_config.json.

    Raises:
        BaseModelError: If its weights are missing or damaged, or it is of a kind that cannot be merged into weights.
    """
    config = read_json_object(folder / ADAPTER_CONFIG)
    kind = str(config.get("peft_type"))
    if kind not in {"LORA", "ADALORA", "LOHA", "LOKR", "OFT", "BOFT", "IA3", "HRA", "VERA", "FOURIERFT"}:
        msg = f"{ADAPTER_CONFIG} describes {kind}, which cannot be merged into weights; give a LoRA adapter or a model without an adapter"
        raise BaseModelError(msg)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        pickled = " (a pickled adapter_model.bin is not read, because it can run code)" if (folder / "adapter_model.bin").is_file() else ""
        msg = f"it contains {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}{pickled}; save the adapter again, or remove {ADAPTER_CONFIG}"
        raise BaseModelError(msg)
    safetensors_header(folder / ADAPTER_WEIGHTS)
    return config


def describe_gaps(missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[tuple[str, Any, Any]]) -> str | None:
    """One sentence on the missing, unexpected or differently shaped tensors of a checkpoint; ``None`` if there are none."""
    lacking, surplus, differing = (
        sorted(missing, key=_natural),
        sorted(unexpected, key=_natural),
        sorted(mismatched, key=lambda one: _natural(one[0])),
    )
    if differing:
        name, actual, expected = differing[0]
        return (
            f"{_counted(len(differing), 'tensor')} of a different shape than config.json implies, such as {name} ({list(actual)} in the "
            f"file, {list(expected)} expected): config.json belongs to another model; fetch both from the same source"
        )
    if lacking and surplus:
        prefix = _common_prefix(lacking, surplus)
        hint = (
            f"the names have an extra {prefix} in front; save the model again under the names that transformers expects"
            if prefix
            else "they belong to another model or were saved differently; save the model with transformers' save_pretrained"
        )
        return (
            f"{_counted(len(lacking), 'tensor')} missing, such as {_some(lacking, 2)}, and {len(surplus)} unexpected, such as "
            f"{_some(surplus, 2)}: {hint}"
        )
    if lacking:
        names = _some(lacking)
        return f"{_counted(len(lacking), 'tensor')} missing from the weights: {names}; the checkpoint is incomplete: fetch or save it again"
    if surplus:
        return (
            f"the weights contain {_counted(len(surplus), 'tensor')} that the configuration has no place for: {_some(surplus)}; "
            "config.json belongs to another model or gives fewer layers: fetch both from the same source"
        )
    return None


def _common_prefix(lacking: list[str], surplus: list[str]) -> str:
    for name in surplus:
        for other in lacking:
            if name.endswith("." + other):
                return repr(name.removesuffix(other))
    return ""


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts layer 10 after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _some(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (" ..." if len(names) > count else "")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
