from __future__ import annotations

import torch

from embedding_adaptation.embedder.token_choice import Sampling, choose_tokens


def test_draws_follow_the_distribution_and_top_p():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    draws = (torch.arange(1000) + 0.5) / 1000
    all_of = choose_tokens(logits.expand(1000, -1), draws, Sampling(1.0, 1.0, 1))
    assert torch.bincount(all_of, minlength=4).tolist() == [500, 300, 150, 50]
    likeliest = choose_tokens(logits.expand(1000, -1), draws, Sampling(1.0, 0.7, 1))
    assert torch.bincount(likeliest, minlength=4).tolist() == [625, 375, 0, 0]
    cold = choose_tokens(logits.expand(1000, -1), draws, Sampling(0.5, 1.0, 1))
    assert torch.bincount(cold, minlength=4)[0] > 680
    assert choose_tokens(logits, torch.tensor([0.999]), Sampling(0.0, 1.0, 1)).tolist() == [0]


def test_a_flat_distribution_is_drawn_from_in_full():
    flat = torch.zeros(1, 1000)
    tokens = choose_tokens(flat.expand(400, -1), (torch.arange(400) + 0.5) / 400, Sampling(1.0, 1.0, 1))
    assert len(set(tokens.tolist())) == 400
