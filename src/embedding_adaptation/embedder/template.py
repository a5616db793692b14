"""Prompt templates: words around a text, assembled at token level.

A decoder's last token summarises everything before it, so the words *after* the text decide what it summarises. They must survive
truncation, and they must tokenise the same way whatever the text is. Both hold here because prefix, text and suffix are tokenised
apart and joined as ids: only the text is ever shortened.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from transformers import PreTrainedTokenizerBase

SLOT = "{text}"


class TemplateError(ValueError):
    """A template that cannot be used; the message names it and says what to change."""


@dataclass(frozen=True)
class TokenizedPrompt:
    """One prompted text as token ids, with the half-open span of the text's own tokens."""

    ids: tuple[int, ...]
    text_start: int
    text_end: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class PromptTemplate:
    """Words before and after a text.

    Args:
        name: The name strategies refer to.
        pattern: The words, with exactly one ``{text}`` slot. ``"{text}"`` alone is the bare text. All other braces are literal.

    Raises:
        TemplateError: If the pattern does not hold exactly one slot.

    Example:
        >>> PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "').suffix
        '" means in one word: "'
    """

    name: str
    pattern: str

    def __post_init__(self) -> None:
        count = self.pattern.count(SLOT)
        if count != 1:
            found = "no" if count == 0 else f"{count}"
            msg = (
                f"template {self.name!r} has {found} {SLOT} slot{'s' if count > 1 else ''}: {self.pattern!r}; "
                f"write exactly one {SLOT} where the text belongs"
            )
            raise TemplateError(msg)

    @cached_property
    def prefix(self) -> str:
        """The words before the text."""
        return self.pattern.partition(SLOT)[0]

    @cached_property
    def suffix(self) -> str:
        """The words after the text."""
        return self.pattern.partition(SLOT)[2]

    def tokenize(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[TokenizedPrompt]:
        """Turn texts into prompted token ids.

        Args:
            texts: Texts to put into the slot.
            tokenizer: The base model's tokenizer. A beginning-of-sequence token is added where this tokenizer adds one by itself.
            max_length: Longest sequence in tokens, prompt included. The end of the text is cut, never the prompt.

        Returns:
            One :class:`TokenizedPrompt` a text, in input order.

        Raises:
            TemplateError: If the prompt alone leaves no room for a single token of text.
        """
        prefix = leading_special_ids(tokenizer) + _encode(tokenizer, [self.prefix])[0]
        suffix = _encode(tokenizer, [self.suffix])[0]
        room = max_length - len(prefix) - len(suffix)
        if room < 1:
            msg = (
                f"template {self.name!r} takes {len(prefix) + len(suffix)} tokens, which leaves no room for a text "
                f"within max_length={max_length}; raise max_length or shorten the template"
            )
            raise TemplateError(msg)
        prompts = []
        for text_ids in _encode(tokenizer, list(texts)):
            # A sequence needs at least one token: an empty text under the bare template would have none.
            kept = text_ids[:room] or ([] if prefix or suffix else [_fallback_id(tokenizer)])
            prompts.append(TokenizedPrompt((*prefix, *kept, *suffix), len(prefix), len(prefix) + len(kept)))
        return prompts


def leading_special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special ids this tokenizer puts before every text by itself (a BOS token, or nothing)."""
    bare = _encode(tokenizer, ["a"])[0]
    full = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start]
    return []


def pad_prompts(prompts: Sequence[TokenizedPrompt], pad_id: int) -> dict[str, torch.Tensor]:
    """Stack prompts into right-padded tensors.

    Args:
        prompts: The prompts of one batch.
        pad_id: Id written where a shorter sequence has ended; it is masked everywhere.

    Returns:
        ``input_ids``, ``attention_mask`` and ``text_mask`` (1 on the text's own tokens), each ``[B, T]`` int64.
    """
    import torch

    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)  # [B, T]
    attention_mask = torch.zeros_like(input_ids)  # [B, T]
    text_mask = torch.zeros_like(input_ids)  # [B, T]
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = torch.tensor(prompt.ids)
        attention_mask[row, : len(prompt)] = 1
        text_mask[row, prompt.text_start : prompt.text_end] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "text_mask": text_mask}


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """An id to pad with; its value never matters, because padding is masked."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else _fallback_id(tokenizer)


def _fallback_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    # verbose=False: texts longer than the model's context are cut right after, so the tokenizer's warning would mislead.
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
