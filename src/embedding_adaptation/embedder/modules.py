"""The sentence-transformers modules that implement template and pooling.

The prompts of sentence-transformers are only prefixes, and its ``Transformer`` wraps plain strings in a chat template if the tokenizer has
one. These two modules keep its trainer, losses and ``encode``, and replace only the steps from text to token ids and from token vectors to
one vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from sentence_transformers.base.modules import InputModule, Module

from embedding_adaptation.embedder.pooling import POOLINGS, PoolingName
from embedding_adaptation.embedder.template import PromptTemplate, TokenizedPrompt, pad_prompts, padding_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class PromptedDecoder(InputModule):
    """A decoder with a prompt template: texts in, token vectors and masks out.

    Args:
        backbone: The decoder without its vocabulary head, whose output has ``last_hidden_state``, or a PEFT model around it.
        tokenizer: The decoder's tokenizer.
        template: The words around each text.
        max_length: Maximum sequence length in tokens, including the prompt; only the text is ever truncated.
    """

    config_keys: ClassVar[list[str]] = ["template_name", "template_pattern", "max_length"]

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
        max_length: int = 256,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.template = template
        self.max_length = max_length

    @property
    def template_name(self) -> str:
        """Name of the template, for the saved configuration."""
        return self.template.name

    @property
    def template_pattern(self) -> str:
        """Pattern of the template, for the saved configuration."""
        return self.template.pattern

    def get_embedding_dimension(self) -> int:
        """Width of the token vectors."""
        return self.backbone.config.hidden_size

    def tokenize_prompts(self, texts: Sequence[str]) -> list[TokenizedPrompt]:
        """Prompted token ids of each text."""
        return self.template.tokenize(texts, self.tokenizer, self.max_length)

    def collate(self, prompts: Sequence[TokenizedPrompt]) -> dict[str, Tensor]:
        """Right-padded ``input_ids``, ``attention_mask`` and ``text_mask``, each ``[B, T]``."""
        return pad_prompts(prompts, padding_id(self.tokenizer))

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:  # noqa: ARG002
        """Tokenise a batch of texts (the interface of sentence-transformers).

        Raises:
            ValueError: If a sentence-transformers prompt is given, because the template is the prompt.
        """
        if prompt:
            msg = f"prompt {prompt!r} was given in addition to template {self.template.name!r}; omit it and change the template instead"
            raise ValueError(msg)
        return self.collate(self.tokenize_prompts([str(text) for text in inputs]))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Run the decoder; adds ``token_embeddings`` ``[B, T, D]``."""
        dtype = self.backbone.dtype
        # An adapter's weights are float32; autocast multiplies them in the dtype of the base, which is twice as fast on a CPU.
        with torch.autocast(self.backbone.device.type, dtype=dtype, enabled=dtype != torch.float32):
            output = self.backbone(input_ids=features["input_ids"], attention_mask=features["attention_mask"], use_cache=False)
        # A new dict, because GradCache runs the same features twice, and the token vectors must not outlive their pass.
        return {**features, "token_embeddings": output.last_hidden_state}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:  # noqa: ARG002
        """Write decoder, tokenizer and template into a folder."""
        self.backbone.save_pretrained(output_path, safe_serialization=safe_serialization)
        self.save_tokenizer(output_path)
        self.save_config(output_path)

    config_file_name = "prompted_decoder.json"


class TokenPooling(Module):
    """Combines token vectors into one vector by the named pooling."""

    config_keys: ClassVar[list[str]] = ["pooling", "embedding_dimension"]

    def __init__(self, pooling: PoolingName, embedding_dimension: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.embedding_dimension = embedding_dimension

    def get_embedding_dimension(self) -> int:
        """Width of the sentence vectors."""
        return self.embedding_dimension

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Pool; adds ``sentence_embedding`` ``[B, D]``."""
        pool = POOLINGS[self.pooling]
        features["sentence_embedding"] = pool(features["token_embeddings"], features["attention_mask"], features["text_mask"])
        return features

    def save(self, output_path: str | Path, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Write the pooling's configuration into a folder."""
        self.save_config(str(output_path))
