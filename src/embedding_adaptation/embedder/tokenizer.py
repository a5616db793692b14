"""A base model's tokenizer, with only ids that the model knows and with a padding token."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.embedder.checkpoint import BaseModelError, beyond_message, read_json_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# How byte-level and SentencePiece tokenizers write a space at the beginning of a token.
_SPACES = ("\u0120", "\u2581")
_PROBES = ("the quick brown fox, 3.5 <b>Ünïcode</b> 🎉\n مرحبا", " a  b\tc", "")


def load_tokenizer(folder: str | Path, rows: int, **loading: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer with a padding token, all of whose ids have a row in the embedding.

    Special tokens beyond the embedding are dropped: the model has no vector for them, so a text that contains one is split into ordinary
    tokens.

    Args:
        folder: Its folder.
        rows: Number of rows of the embedding.
        **loading: Further arguments for transformers' ``from_pretrained``.

    Raises:
        BaseModelError: If it cannot be read, or gives texts ids beyond the embedding.
    """
    tokenizer = _read(folder, **loading)
    beyond = _beyond(tokenizer, rows)
    if beyond:
        ordinary = {token: number for token, number in beyond.items() if token not in _special_tokens(tokenizer)}
        needed = [token for token in (tokenizer.bos_token, tokenizer.eos_token) if token in beyond]
        if ordinary or needed:
            raise BaseModelError(beyond_message(ordinary or {token: beyond[token] for token in needed}, rows))
        with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as scratch:
            tokenizer.save_pretrained(scratch)
            _leave_out(Path(scratch), set(beyond))
            tokenizer = _read(scratch)
        still = _beyond(tokenizer, rows)
        if still:
            raise BaseModelError(beyond_message(still, rows))
        if any(number >= rows for ids in tokenizer(list(_PROBES), add_special_tokens=False)["input_ids"] for number in ids):
            raise BaseModelError(beyond_message(beyond, rows))
    tokenizer.name_or_path = ""  # otherwise the source path would be saved with it
    give_padding(tokenizer)
    return tokenizer


def give_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the padding token of a tokenizer that has none, without changing the ids of any text.

    Padding is masked, so its vector never matters; but a token that becomes special takes precedence over all others in texts. The end
    token is already special. If there is none, the longest token that begins with the sign for a space is used: no text contains it.
    """
    if tokenizer.pad_token is not None:
        return
    known = tokenizer.eos_token or tokenizer.bos_token or next(iter(tokenizer.get_added_vocab()), None)
    if known is not None:
        tokenizer.pad_token = known
        return
    unspelled = [token for token in tokenizer.get_vocab() if token.startswith(_SPACES) and len(token) > 2]  # noqa: PLR2004
    if not unspelled:
        return
    before = tokenizer(list(_PROBES), add_special_tokens=False)["input_ids"]
    tokenizer.pad_token = max(unspelled, key=lambda token: (len(token), token))
    if tokenizer(list(_PROBES), add_special_tokens=False)["input_ids"] != before:
        msg = "the tokenizer has no special token to pad with, and adding one changes how texts are tokenised; give it a pad_token"
        raise BaseModelError(msg)


def _read(folder: str | Path, **loading: Any) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **loading)
    except Exception as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        msg = f"its tokenizer cannot be read ({line[:200]}); save it again with transformers' save_pretrained"
        raise BaseModelError(msg) from error


def _beyond(tokenizer: PreTrainedTokenizerBase, rows: int) -> dict[str, int]:
    return {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    return {*tokenizer.all_special_tokens, *(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)}


def _leave_out(folder: Path, tokens: set[str]) -> None:
    """Remove tokens from a saved tokenizer's files."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        file = folder / name
        if file.is_file():
            content = read_json_object(file)
            if name == "tokenizer.json":
                content["added_tokens"] = [entry for entry in content.get("added_tokens") or [] if entry["content"] not in tokens]
                content["padding"] = None
            else:
                content = _without(content, tokens)
                if name == "tokenizer_config.json":
                    # The class of a model family may add tokens of its own; this one has only those in the file.
                    content["tokenizer_class"] = "PreTrainedTokenizerFast"
            file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _without(value: Any, tokens: set[str]) -> Any:
    if isinstance(value, dict):
        kept = {name: part for name, part in value.items() if name not in tokens and not _names(part, tokens)}
        return {name: _without(part, tokens) for name, part in kept.items()}
    if isinstance(value, list):
        return [_without(part, tokens) for part in value if not _names(part, tokens)]
    return value


def _names(value: Any, tokens: set[str]) -> bool:
    return (isinstance(value, str) and value in tokens) or (isinstance(value, dict) and value.get("content") in tokens)
