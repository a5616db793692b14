"""Hidden states of the lower half of a base model, shared by the embedders of a process.

An adapter on the upper layers leaves the lower ones as they are: what the base model has computed of a text under a template up to the
middle is what the adapted model would compute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from embedding_adaptation.embedder.prompt_tree import PromptTree
    from embedding_adaptation.embedder.template import Frame

_LIMIT_MB = 256


class LowerMemory:
    """Hidden states by weights, templates and row of token ids, up to a limit; those of other base weights are forgotten.

    Args:
        limit_mb: Memory for them. What does not fit is computed again.

    Attributes:
        rows_read: Rows that need not be computed.
    """

    def __init__(self, limit_mb: int = _LIMIT_MB) -> None:
        self.rows_read = 0
        self._limit = self._free = limit_mb << 20
        self._weights: Hashable = None
        self._states: dict[PromptTree, dict[tuple[int, ...], torch.Tensor]] = {}

    def of(self, weights: Hashable, tree: PromptTree, rows: Sequence[Sequence[int]]) -> torch.Tensor | None:
        """States of rows, one after the other, ``[N, D]``; ``None`` if one is missing.

        Args:
            weights: Identifies the base weights, the number format, and the layer.
            tree: The templates.
            rows: Token ids of each row.
        """
        known = self._states.get(tree) if weights == self._weights else None
        if known is None:
            return None
        found = [known.get(tuple(row)) for row in rows]
        states = [state for state in found if state is not None]
        if len(states) < len(found):
            return None
        self.rows_read += len(states)
        return torch.cat(states)

    def of_frame(self, weights: Hashable, frame: Frame, rows: Sequence[Sequence[int]]) -> list[torch.Tensor | None]:
        """States ``[R, D]`` of rows of one template alone, taken from rows that it shared with others; ``None`` for each that is missing.

        Args:
            weights: As in :meth:`of`.
            frame: The template.
            rows: Token ids of the text and of the template's suffix.
        """
        found: list[torch.Tensor | None] = [None] * len(rows)
        for tree, known in self._states.items() if weights == self._weights else ():
            if frame not in tree.frames or tree.lead:
                continue
            for place, row in enumerate(rows):
                text = row[: len(row) - len(frame.suffix)]
                state = known.get(tuple(tree.row(text))) if len(text) < min(one.room for one in tree.frames) else None  # not cut by any
                if state is not None:
                    layout = tree.layout(len(text))
                    number = tree.frames.index(frame)
                    found[place] = torch.cat([state[layout.text[number]], state[layout.suffix[number]]])
        self.rows_read += sum(state is not None for state in found)
        return found

    def add(self, weights: Hashable, tree: PromptTree, rows: Sequence[Sequence[int]], states: torch.Tensor) -> None:
        """Keep the states ``[N, D]`` of rows, if there is room for all of them."""
        if weights != self._weights:
            self._weights, self._states, self._free = weights, {}, self._limit
        size = states.numel() * states.element_size()
        if size > self._free:
            return
        self._free -= size
        known = self._states.setdefault(tree, {})
        for row, state in zip(rows, states.clone().split([len(row) for row in rows]), strict=True):
            known[tuple(row)] = state
