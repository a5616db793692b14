"""Prompt templates: words around a text, assembled at token level.

A decoder's last token summarises everything before it, so the words *after* the text determine what it summarises. They must survive
truncation, and must be tokenised in the same way whatever the text is. Both are ensured because prefix, text and suffix are tokenised
separately and joined as ids, and only the text is ever truncated.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from embedding_adaptation.identity import A_NAME

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
class Frame:
    """A template as token ids: those before and after every text, and the room left between them."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    room: int

    def around(self, text_ids: Sequence[int]) -> TokenizedPrompt:
        """Put a text's ids into the frame, truncated to the available room."""
        kept = tuple(text_ids[: self.room])
        return TokenizedPrompt((*self.prefix, *kept, *self.suffix), len(self.prefix), len(self.prefix) + len(kept))


@dataclass(frozen=True)
class PromptTemplate:
    """Words before and after a text.

    Args:
        name: The name strategies refer to.
        pattern: The words, with exactly one ``{text}`` slot; ``"{text}"`` alone is the bare text. All other braces are literal.
        bos: Whether a beginning-of-sequence token comes first; ``"auto"`` adds one if the tokenizer itself does, as in training.
        eos: Whether an end-of-sequence token comes last.

    Raises:
        TemplateError: If the pattern does not contain exactly one slot.

    Example:
        >>> PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "').suffix
        '" means in one word: "'
    """

    name: str = field(metadata=A_NAME)
    pattern: str
    bos: bool | Literal["auto"] = "auto"
    eos: bool = False

    def __post_init__(self) -> None:
        count = self.pattern.count(SLOT)
        if count != 1:
            msg = (
                f"template {self.name!r} has {count or 'no'} {SLOT} slot{'s' if count > 1 else ''}: {self.pattern!r}; "
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
            tokenizer: The base model's tokenizer.
            max_length: Maximum sequence length in tokens, including the prompt. Only the end of the text is truncated, never the prompt.

        Returns:
            One :class:`TokenizedPrompt` per text, in input order.

        Raises:
            TemplateError: If the prompt alone leaves no room for a single token of text.
        """
        frame = self.frame(tokenizer, max_length)
        return [frame.around(text_ids) for text_ids in self.text_ids(texts, tokenizer)]

    def text_ids(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Token ids of the texts alone. If nothing precedes the text, an empty text gets one token, because a sequence cannot be empty."""
        encoded = encode_texts(texts, tokenizer)
        if self.prefix or self._first_ids(tokenizer):
            return encoded
        return [ids or [fallback_id(tokenizer)] for ids in encoded]

    def frame(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Frame:
        """The template's own token ids.

        Raises:
            TemplateError: If they leave no room for a single token of text, or the tokenizer lacks a requested token.
        """
        prefix, suffix = _encode(tokenizer, [self.prefix])[0], _encode(tokenizer, [self.suffix])[0]
        prefix = self._first_ids(tokenizer) + prefix
        if self.eos:
            suffix = [*suffix, self._special_id(tokenizer, "eos")]
        room = max_length - len(prefix) - len(suffix)
        if room < 1:
            msg = (
                f"template {self.name!r} takes {len(prefix) + len(suffix)} tokens, which leaves no room for a text "
                f"within max_length={max_length}; raise max_length or shorten the template"
            )
            raise TemplateError(msg)
        return Frame(tuple(prefix), tuple(suffix), room)

    def _first_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        if self.bos == "auto":
            return leading_special_ids(tokenizer)
        return [self._special_id(tokenizer, "bos")] if self.bos else []

    def _special_id(self, tokenizer: PreTrainedTokenizerBase, kind: Literal["bos", "eos"]) -> int:
        token_id = getattr(tokenizer, f"{kind}_token_id")
        if token_id is None:
            msg = f"template {self.name!r} asks for {kind}, but this model's tokenizer has no such token; remove {kind} from the template"
            raise TemplateError(msg)
        return int(token_id)


def leading_special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special ids that the tokenizer itself adds before every text (a BOS token, or none)."""
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
        pad_id: Id for padding, which is masked everywhere.

    Returns:
        ``input_ids``, ``attention_mask`` and ``text_mask`` (1 for the text's tokens), each ``[B, T]`` int64.
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
    """An id to pad with; its value does not matter, because padding is masked."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else fallback_id(tokenizer)


def fallback_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that represents an empty text if nothing precedes it."""
    return tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0


def encode_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of texts without special tokens; lone surrogates, which no tokenizer accepts, become U+FFFD."""
    return _encode(tokenizer, [without_surrogates(text) for text in texts])


def encode_with_spans(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[tuple[list[int], list[tuple[int, int]], str]]:
    """The ids of :func:`encode_texts`, and the span of each token in the text.

    Args:
        texts: Texts.
        tokenizer: The base model's tokenizer. If it cannot report spans, they are found by decoding the tokens one by one.

    Returns:
        For each text, its ids, the half-open character span of each token, and the text that these spans refer to.
    """
    cleaned = [without_surrogates(text) for text in texts]
    if not cleaned:
        return []
    if tokenizer.is_fast:
        encoded = tokenizer(cleaned, add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=True, verbose=False)
        spans = [[(int(first), int(last)) for first, last in offsets] for offsets in encoded["offset_mapping"]]
        return list(zip(encoded["input_ids"], spans, cleaned, strict=True))
    return [(ids, _decoded_spans(ids, text, tokenizer), text) for ids, text in zip(_encode(tokenizer, cleaned), cleaned, strict=True)]


def _decoded_spans(ids: Sequence[int], text: str, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    ends = [min(len(tokenizer.decode(ids[:count])), len(text)) for count in range(len(ids) + 1)]
    return list(itertools.pairwise(ends))


def without_surrogates(text: str) -> str:
    """The text as the tokenizer gets it: half a surrogate pair, which is no character, is replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        # Pairs become the character they represent; single ones are replaced.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    # verbose=False: texts longer than the model's context are truncated right afterwards, so the tokenizer's warning would mislead.
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
