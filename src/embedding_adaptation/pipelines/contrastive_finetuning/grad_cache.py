"""Contrastive loss over a whole batch in bounded memory, with as little computed twice as the memory allows.

GradCache embeds all chunks of a batch without gradients, takes the loss and its gradient with respect to the vectors, and embeds every
chunk a second time to carry that gradient on. Here chunks keep their activations the first time as long as a budget lasts, and only the
others are embedded twice. The gradients are those of one pass over the batch.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.losses.cached_multiple_negatives_ranking import RandContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embedding_adaptation.embedder.training_pass import TrainingPass
    from embedding_adaptation.pipelines.contrastive_finetuning.lower_states import LowerStates

logger = logging.getLogger(__name__)

Row = tuple[int, ...]


class GradCacheLoss(torch.nn.Module):
    """A loss of a batch's vectors, for sentence-transformers' trainer.

    Args:
        preprocess: Makes ``input_ids`` and ``attention_mask`` of texts, as the columns of a batch have them.
        training_pass: Embeds rows of it.
        loss: ``loss(vectors, labels)``: a scalar of the columns' vectors, each ``[B, D]``, and the batch's labels ``[B]``.
        chunk_tokens: Tokens embedded at once.
        activation_mb: Memory for activations that are kept from the first pass.
        lower_states: Stored output of the layers below the pass; ``None`` where it computes them all.

    References:
        GradCache: https://arxiv.org/abs/2101.06983
    """

    def __init__(
        self,
        preprocess: Callable[[list[str]], dict[str, torch.Tensor]],
        training_pass: TrainingPass,
        loss: Callable[[list[torch.Tensor], torch.Tensor | None], torch.Tensor],
        *,
        chunk_tokens: int,
        activation_mb: int,
        lower_states: LowerStates | None = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.training_pass = training_pass
        self.loss = loss
        self.chunk_tokens = chunk_tokens
        self.activation_bytes = activation_mb << 20
        self.lower_states = lower_states
        self.tokens = self.tokens_again = 0

    def forward(self, sentence_features: Sequence[dict[str, torch.Tensor]], labels: torch.Tensor | None = None) -> torch.Tensor:
        """The loss of a batch; its backward pass puts gradients on the model's weights.

        Raises:
            torch.OutOfMemoryError: If not even one text at a time fits.
        """
        columns = [self._rows(features) for features in sentence_features]
        rows = [row for column in columns for row in column]
        with self.training_pass.training():
            first = self._first_pass(rows)
            vectors = first.vectors.requires_grad_(torch.is_grad_enabled())  # [sum of B, D]
            parts = list(vectors.split([len(column) for column in columns]))  # [B, D] each
            if _is_distributed():
                parts, labels = [_gathered(part) for part in parts], None if labels is None else _gathered(labels)
            loss = self.loss(parts, labels)
            if not torch.is_grad_enabled():
                return loss
            (of_vectors,) = torch.autograd.grad(loss, vectors)  # [sum of B, D]
        result = loss.detach().requires_grad_()
        result.register_hook(lambda outer: self._carry_on(first, of_vectors * outer))
        return result

    def _first_pass(self, rows: list[Row]) -> _FirstPass:
        while True:
            try:
                return _FirstPass(self, rows)
            except torch.OutOfMemoryError:
                self._take_less(rows)

    def _take_less(self, rows: list[Row]) -> None:
        """Halve the chunks after they did not fit, and keep no activations any more.

        Raises:
            torch.OutOfMemoryError: The one under way, if chunks cannot be halved.
        """
        longest = max(map(len, rows))
        if self.chunk_tokens <= longest:
            raise  # noqa: PLE0704  called where one is handled
        self.activation_bytes = 0
        self.chunk_tokens = max(longest, self.chunk_tokens // 2)
        logger.warning("out of memory: going on with chunks of %d tokens (contrastive_finetuning.chunk_tokens)", self.chunk_tokens)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Vectors of texts under the present weights, without gradients and without dropout, ``[N, D]`` float32."""
        rows = self._rows(self.preprocess(list(texts)))
        decoder = self.training_pass.decoder
        was_training = decoder.training
        decoder.eval()
        try:
            with torch.no_grad(), self.training_pass.training():
                return _FirstPass(self, rows).vectors
        finally:
            decoder.train(was_training)

    def _carry_on(self, first: _FirstPass, of_vectors: torch.Tensor) -> None:
        """Take the vectors' gradients to the weights, chunk by chunk."""
        weights = [weight for weight in self.training_pass.decoder.parameters() if weight.requires_grad]
        before = [None if weight.grad is None else weight.grad.clone() for weight in weights]
        while True:
            try:
                self._backward(first, of_vectors)
                break
            except torch.OutOfMemoryError:
                self._take_less(first.rows)
                first.cut(self.chunk_tokens)
                for weight, gradient in zip(weights, before, strict=True):  # some chunks may have added theirs already
                    weight.grad = gradient
        if _is_distributed():
            for weight in weights:
                if weight.grad is not None:
                    torch.distributed.all_reduce(weight.grad)

    def _backward(self, first: _FirstPass, of_vectors: torch.Tensor) -> None:
        with torch.enable_grad(), self.training_pass.training():
            for chunk, kept, state in first.chunks():
                vectors = kept
                if vectors is None:
                    with state:
                        vectors = self._embed([first.rows[index] for index in chunk])
                    self.tokens_again += sum(len(first.rows[index]) for index in chunk)
                vectors.backward(of_vectors[chunk].to(vectors.dtype))

    def _embed(self, rows: list[Row]) -> torch.Tensor:
        lower = None if self.lower_states is None else self.lower_states.of(rows)
        decoder = self.training_pass.decoder
        # An adapter's weights are float32; autocast multiplies them in the base's format, which is twice as fast on a CPU.
        with torch.autocast(decoder.device.type, dtype=decoder.dtype, enabled=decoder.dtype != torch.float32):
            return self.training_pass.embed(rows, lower)  # [n, D]

    def _rows(self, features: dict[str, torch.Tensor]) -> list[Row]:
        """Ids of each text behind the template's shared beginning."""
        lengths = features["attention_mask"].sum(dim=1).tolist()
        shared = len(self.training_pass.tree.shared)
        return [tuple(ids[shared:length]) for ids, length in zip(features["input_ids"].tolist(), lengths, strict=True)]


def _is_distributed() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _gathered(own: torch.Tensor) -> torch.Tensor:
    """The tensors of all devices in the order of their ranks; only the own one is part of the graph.

    Every device takes the loss of the whole batch, so that the gradient with respect to its own vectors is complete.
    """
    parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, own.detach().contiguous())
    parts[torch.distributed.get_rank()] = own
    return torch.cat(parts)


class _FirstPass:
    """Vectors of all rows, with the activations of as many chunks as the budget holds."""

    def __init__(self, owner: GradCacheLoss, rows: list[Row]) -> None:
        self.rows = rows
        self._chunks: list[tuple[list[int], torch.Tensor | None, RandContext]] = []
        free = owner.activation_bytes if torch.is_grad_enabled() else 0
        parts: list[torch.Tensor] = []
        order: list[int] = []
        last = 0
        frozen = {weight.untyped_storage().data_ptr() for weight in owner.training_pass.decoder.parameters()}
        for chunk in _chunks_of(rows, owner.chunk_tokens):
            chosen = [rows[index] for index in chunk]
            tokens = sum(map(len, chosen))
            owner.tokens += tokens
            state = RandContext(torch.empty(0, device=owner.training_pass.decoder.device))
            kept: torch.Tensor | None = None
            if 0 < free >= last:  # the next chunk is taken to need as much as the one before
                seen: dict[int, int] = {}
                with torch.autograd.graph.saved_tensors_hooks(_counting(seen, frozen), _same):
                    kept = owner._embed(chosen)  # noqa: SLF001
                last = sum(seen.values())
                free -= last
                vectors = kept.detach()
            else:
                with torch.no_grad():
                    vectors = owner._embed(chosen)  # noqa: SLF001
            self._chunks.append((chunk, kept, state))
            parts.append(vectors.float())
            order.extend(chunk)
        back = torch.empty(len(rows), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(rows))
        self.vectors = torch.cat(parts)[back.to(parts[0].device)]  # [N, D]

    def cut(self, budget: int) -> None:
        """Cut all rows anew into chunks without activations; random states are those of now."""
        device = self.vectors.device
        self._chunks = [(chunk, None, RandContext(torch.empty(0, device=device))) for chunk in _chunks_of(self.rows, budget)]

    def chunks(self) -> Iterator[tuple[list[int], torch.Tensor | None, RandContext]]:
        """Each chunk's rows, vectors with their graph where it was kept, and the random state before them; given out once."""
        while self._chunks:
            yield self._chunks.pop()


def _chunks_of(rows: Sequence[Row], budget: int) -> list[list[int]]:
    """Rows in order of length, cut where a chunk would have more tokens than the budget."""
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
