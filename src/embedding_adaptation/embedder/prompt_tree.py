"""Templates with a common beginning, laid out so that it is computed once.

Templates with the same prefix form a tree: the prefix is read once for all texts, a text is read once for all templates, and each
template's suffix is a branch that sees prefix, text and itself, but no other branch. Positions are those that each prompt would have on its
own, so every branch gives the same result as a separate pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedding_adaptation.embedder.template import Frame


# Layouts of texts up to this length are cached, at most half a megabyte each; for longer texts, the layout takes a negligible time.
_KEPT_LENGTH = 512


@dataclass(frozen=True)
class PromptTree:
    """Frames with the same prefix.

    A *row* is what is computed for one text: ``lead`` tokens of the prefix, the text, and all suffixes in turn.

    Attributes:
        frames: The templates' token ids; all have the same prefix.
    """

    frames: tuple[Frame, ...]

    @cached_property
    def lead(self) -> int:
        """Number of prefix tokens computed in every row: one if a template ends with the text, which may be empty, otherwise none."""
        return int(bool(self._prefix) and any(not frame.suffix for frame in self.frames))

    @cached_property
    def shared(self) -> tuple[int, ...]:
        """Ids that precede every row and are read once."""
        return self._prefix[: len(self._prefix) - self.lead]

    @cached_property
    def room(self) -> int:
        """Maximum number of tokens of a text that any template sees."""
        return max(frame.room for frame in self.frames)

    @cached_property
    def branch_starts(self) -> tuple[int, ...]:
        """Where each suffix begins, counted from the end of the text in the row."""
        starts, at = [], 0
        for frame in self.frames:
            starts.append(at)
            at += len(frame.suffix)
        return tuple(starts)

    @cached_property
    def _prefix(self) -> tuple[int, ...]:
        return self.frames[0].prefix

    @cached_property
    def _suffixes(self) -> tuple[int, ...]:
        return tuple(token for frame in self.frames for token in frame.suffix)

    def row(self, text_ids: Sequence[int]) -> list[int]:
        """The ids computed for one text."""
        return [*self._prefix[len(self.shared) :], *text_ids[: self.room], *self._suffixes]

    def width(self, text_length: int) -> int:
        """Number of ids computed for a text with this many tokens."""
        return self.lead + min(text_length, self.room) + len(self._suffixes)

    def layout(self, text_length: int) -> RowLayout:
        """The layout of rows of texts with this many tokens."""
        length = min(text_length, self.room)
        return _kept_layout(self, length) if length <= _KEPT_LENGTH else _layout(self, length)

    def layout_of_row(self, width: int) -> RowLayout:
        """The layout of rows of this width."""
        return self.layout(width - self.lead - len(self._suffixes))


@dataclass(frozen=True)
class RowLayout:
    """Positions and attention of rows with equally long texts.

    Attributes:
        width: Tokens in a row, ``R``.
        shared: Tokens of the prefix, ``P``.
        positions: ``[P + R]`` int64, position of each token in its own prompt.
        allowed: ``[R, P + R]`` bool, which tokens each token of the row sees.
        text: The span of the text in the row, for each template.
        suffix: The span of its suffix in the row, for each template.
        last: The index of its last token in the row, for each template.
    """

    width: int
    shared: int
    positions: torch.Tensor
    allowed: torch.Tensor
    text: tuple[slice, ...]
    suffix: tuple[slice, ...]
    last: tuple[int, ...]


def causal_layout(width: int, shared: int = 0) -> RowLayout:
    """The layout of rows without templates: each token sees the prefix and the tokens before it in its row.

    Args:
        width: Tokens in a row.
        shared: Tokens of the prefix.
    """
    positions = torch.arange(shared + width)  # [P + R]
    allowed = positions[None, :] <= positions[shared:, None]  # [R, P + R]
    return RowLayout(width, shared, positions, allowed, (), (), ())


def _layout(tree: PromptTree, text_length: int) -> RowLayout:
    shared, trunk = len(tree.shared), tree.lead + text_length
    width = len(tree.row([0] * text_length))
    positions = torch.arange(shared + width)  # [P + R]
    allowed = torch.zeros(width, shared + width, dtype=torch.bool)  # [R, P + R]
    allowed[:, :shared] = True
    allowed[:trunk, shared : shared + trunk] = torch.ones(trunk, trunk, dtype=torch.bool).tril()
    texts, suffixes, lasts = [], [], []
    for frame, offset in zip(tree.frames, tree.branch_starts, strict=True):
        seen = tree.lead + min(text_length, frame.room)  # a template with less room sees less of the text
        length, start = len(frame.suffix), trunk + offset
        branch = slice(start, start + length)
        positions[shared + start : shared + start + length] = shared + seen + torch.arange(length)
        allowed[branch, shared : shared + seen] = True
        allowed[branch, shared + start : shared + start + length] = torch.ones(length, length, dtype=torch.bool).tril()
        texts.append(slice(tree.lead, seen))
        suffixes.append(branch)
        lasts.append(start + length - 1 if length else seen - 1)
    return RowLayout(width, shared, positions, allowed, tuple(texts), tuple(suffixes), tuple(lasts))


_kept_layout = lru_cache(maxsize=1024)(_layout)
