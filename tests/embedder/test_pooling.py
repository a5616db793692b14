from __future__ import annotations

import pytest
import torch

from embedding_adaptation.embedder.pooling import POOLINGS, last_index

TOKENS = torch.arange(24, dtype=torch.float32).reshape(2, 4, 3)  # [B, T, D]
RIGHT = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])  # padding on the right
TEXT = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]])


def slow(name: str) -> torch.Tensor:
    """The obvious version, a row and a token at a time."""
    rows = []
    for row in range(2):
        real = [t for t in range(4) if RIGHT[row, t]]
        chosen = {"last": real[-1:], "mean": real, "text_mean": [t for t in range(4) if TEXT[row, t]]}[name]
        rows.append(sum(TOKENS[row, t] for t in chosen) / len(chosen))
    return torch.stack(rows)


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_pooling_equals_the_obvious_version(name):
    torch.testing.assert_close(POOLINGS[name](TOKENS, RIGHT, TEXT), slow(name))


def test_the_last_token_is_found_with_padding_on_either_side():
    left = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert last_index(RIGHT).tolist() == [2, 3]
    assert last_index(left).tolist() == [3, 3]


def test_means_keep_the_format_of_their_input():
    assert POOLINGS["mean"](TOKENS.bfloat16(), RIGHT, TEXT).dtype == torch.bfloat16
