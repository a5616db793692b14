"""Vectors of a whole batch and their gradients in bounded memory, computing as little twice as memory allows.

GradCache embeds all chunks of a batch without gradients, takes the loss and its gradient with respect to the vectors, and embeds every
chunk a second time to backpropagate that gradient. Here chunks keep their activations the first time while a budget lasts, and only the
others are embedded twice. The gradients equal those of one pass over the batch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from embedding_adaptation.embedder.training_pass import evaluating
from embedding_adaptation.pipelines.contrastive_finetuning.ranks import add_up_gradients, gathered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedding_adaptation.embedder.training_pass import GradientPass

logger = logging.getLogger(__name__)

Row = tuple[int, ...]


class GradCache:
    """Embeds a batch chunk by chunk, and backpropagates a loss to the weights the same way.

    Args:
        training_pass: Embeds rows of token ids.
        chunk_tokens: Tokens embedded at once; halved where they do not fit into memory.
        activation_mb: Memory for activations that are kept from the first pass.

    Attributes:
        tokens: Tokens embedded so far, each counted once.
        tokens_again: Tokens of chunks that were embedded a second time.

    Example::

        batch = cache.forward([anchor_rows, positive_rows])
        cache.backward(batch, info_nce(*batch.columns, temperature=0.05))

    References:
        GradCache: https://arxiv.org/abs/2101.06983
    """

    def __init__(self, training_pass: GradientPass, *, chunk_tokens: int, activation_mb: int) -> None:
        self.training_pass = training_pass
        self.chunk_tokens = chunk_tokens
        self.activation_bytes = activation_mb << 20
        self.tokens = self.tokens_again = 0

    def forward(self, columns: Sequence[Sequence[Row]]) -> Embedded:
        """Embed the columns of a batch: anchors, positives, and hard negatives where there are any.

        Raises:
            torch.OutOfMemoryError: If not even one text at a time fits.
        """
        batch = self._embedded([row for column in columns for row in column])
        batch.vectors.requires_grad_()
        batch.columns = [gathered(part) for part in batch.vectors.split([len(column) for column in columns])]  # [B, D] each
        return batch

    def backward(self, batch: Embedded, loss: torch.Tensor) -> None:
        """Add a loss's gradient to that of the weights.

        Args:
            batch: What :meth:`forward` returned; it can be used once.
            loss: A scalar of its columns.

        Raises:
            torch.OutOfMemoryError: If not even one text at a time fits.
        """
        (of_vectors,) = torch.autograd.grad(loss, batch.vectors)  # [N, D]
        weights = [weight for weight in self.training_pass.decoder.parameters() if weight.requires_grad]
        before = [None if weight.grad is None else weight.grad.clone() for weight in weights]
        while True:
            try:
                self._carry_on(batch, of_vectors)
                break
            except torch.OutOfMemoryError:
                self._take_less(batch.rows)
                batch.chunks = [_Chunk(rows, None, _new_seed()) for rows in _chunks_of(batch.rows, self.chunk_tokens)]
                for weight, gradient in zip(weights, before, strict=True):  # some chunks may have added theirs already
                    weight.grad = None if gradient is None else gradient.clone()
        add_up_gradients(weights)

    def encode(self, rows: Sequence[Row]) -> torch.Tensor:
        """Vectors of rows under the present weights, without gradients and without dropout, ``[N, D]`` float32."""
        with evaluating(self.training_pass.decoder):
            return self._embedded(rows).vectors

    def _embedded(self, rows: Sequence[Row]) -> Embedded:
        while True:
            try:
                return self._first_pass(rows)
            except torch.OutOfMemoryError:
                self._take_less(rows)

    def _first_pass(self, rows: Sequence[Row]) -> Embedded:
        """Embed all rows, keeping the activations of as many chunks as fit into the budget."""
        chunks: list[_Chunk] = []
        parts: list[torch.Tensor] = []
        free = self.activation_bytes if torch.is_grad_enabled() else 0
        last = 0
        frozen = {weight.untyped_storage().data_ptr() for weight in self.training_pass.decoder.parameters()}
        for indices in _chunks_of(rows, self.chunk_tokens):
            chunk = _Chunk(indices, None, _new_seed())
            if 0 < free >= last:  # the next chunk is taken to need as much as the one before
                seen: dict[int, int] = {}
                with torch.autograd.graph.saved_tensors_hooks(_counting(seen, frozen), _same):
                    vectors = chunk.vectors = self._embed(rows, chunk)
                last = sum(seen.values())
                free -= last
            else:
                with torch.no_grad():
                    vectors = self._embed(rows, chunk)
            chunks.append(chunk)
            parts.append(vectors.detach().float())
        back = torch.tensor([index for chunk in chunks for index in chunk.indices]).argsort()  # [N]
        self.tokens += sum(map(len, rows))
        return Embedded(rows, chunks, torch.cat(parts)[back.to(parts[0].device)])

    def _carry_on(self, batch: Embedded, of_vectors: torch.Tensor) -> None:
        """Backpropagate the vectors' gradients to the weights, chunk by chunk."""
        while batch.chunks:
            chunk = batch.chunks.pop()
            vectors = chunk.vectors
            if vectors is None:
                vectors = self._embed(batch.rows, chunk)
                self.tokens_again += sum(len(batch.rows[index]) for index in chunk.indices)
            with self.training_pass.training():
                vectors.backward(of_vectors[chunk.indices].to(vectors.dtype))

    def _embed(self, rows: Sequence[Row], chunk: _Chunk) -> torch.Tensor:
        torch.manual_seed(chunk.seed)  # dropout is the same in both passes
        with self.training_pass.training():
            return self.training_pass.embed([rows[index] for index in chunk.indices])  # [n, D]

    def _take_less(self, rows: Sequence[Row]) -> None:
        """Halve the chunks after they did not fit, and stop keeping activations.

        Raises:
            torch.OutOfMemoryError: The one being handled, if chunks cannot be halved.
        """
        longest = max(map(len, rows))
        if self.chunk_tokens <= longest:
            raise  # noqa: PLE0704  called where one is handled
        self.activation_bytes = 0
        self.chunk_tokens = max(longest, self.chunk_tokens // 2)
        logger.warning("out of memory: continuing with chunks of %d tokens (contrastive_finetuning.chunk_tokens)", self.chunk_tokens)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@dataclass
class Embedded:
    """A batch's vectors.

    Attributes:
        rows: This device's rows of token ids, column after column.
        chunks: The chunks they were embedded in.
        vectors: Their vectors, ``[N, D]`` float32.
        columns: ``[B, D]`` for each column of the batch, those of all devices.
    """

    rows: Sequence[Row]
    chunks: list[_Chunk]
    vectors: torch.Tensor
    columns: list[torch.Tensor] = field(default_factory=list)


@dataclass
class _Chunk:
    """Rows embedded at once; ``vectors`` has their graph if it was kept."""

    indices: list[int]
    vectors: torch.Tensor | None
    seed: int


def _new_seed() -> int:
    return int(torch.randint(2**62, ()))


def _chunks_of(rows: Sequence[Row], budget: int) -> list[list[int]]:
    """Rows in order of length, split so that no chunk exceeds the token budget."""
    chunks: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(rows)), key=lambda index: len(rows[index])):
        if not chunks or tokens + len(rows[index]) > budget:
            chunks.append([])
            tokens = 0
        chunks[-1].append(index)
        tokens += len(rows[index])
    return chunks


def _counting(seen: dict[int, int], apart: set[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in apart:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    return pack


def _same(tensor: torch.Tensor) -> Any:
    return tensor
