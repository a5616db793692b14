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
        text = [t for t in range(4) if TEXT[row, t]]

        def mean(chosen, weights, row=row):
            return sum(TOKENS[row, t] * w for t, w in zip(chosen, weights, strict=True)) / sum(weights)

        last, everything = TOKENS[row, real[-1]], mean(real, [1] * len(real))
        rows.append(
            {
                "last": last,
                "eos": last,
                "mean": everything,
                "text_mean": mean(text, [1] * len(text)),
                "weighted_mean": mean(real, range(1, len(real) + 1)),
                "last_mean": torch.cat([last, everything]),
                "max": torch.stack([TOKENS[row, t] for t in real]).amax(dim=0),
            }[name]
        )
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


def test_a_text_without_tokens_is_the_mean_of_its_prompt():
    nothing = torch.zeros_like(TEXT)
    torch.testing.assert_close(POOLINGS["text_mean"](TOKENS, RIGHT, nothing), POOLINGS["mean"](TOKENS, RIGHT, TEXT))
