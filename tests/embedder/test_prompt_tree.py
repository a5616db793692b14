from __future__ import annotations

import pytest
import torch

from embedding_adaptation.embedder.prompt_tree import PromptTree, causal_layout
from embedding_adaptation.embedder.template import Frame


@pytest.mark.parametrize("text", [[], [7], [7, 8, 9], list(range(7, 20))], ids=len)
@pytest.mark.parametrize(
    "frames",
    [
        (Frame((1, 2), (3, 4), 10),),
        (Frame((1, 2), (3, 4), 10), Frame((1, 2), (5,), 11), Frame((1, 2), (), 12)),
        (Frame((1,), (), 12), Frame((1,), (3, 4, 5), 2)),
        (Frame((), (3,), 4), Frame((), (6, 6), 3)),
    ],
)
def test_every_branch_sees_exactly_its_own_prompt(frames, text):
    """Follow the mask: what a template's last token sees, with its positions, is the prompt tokenised alone."""
    tree = PromptTree(frames)
    row, layout = torch.tensor([*tree.shared, *tree.row(text)]), tree.layout(len(text))
    assert layout.width + layout.shared == len(row) == len(layout.positions)
    for number, frame in enumerate(frames):
        alone = frame.around(text)
        if not len(alone):
            continue
        seen = layout.allowed[layout.last[number]]
        assert tuple(row[seen].tolist()) == alone.ids
        assert layout.positions[seen].tolist() == list(range(len(alone)))
        own = row[layout.shared :]
        assert tuple(own[layout.suffix[number]].tolist()) == frame.suffix
        assert tuple(own[layout.text[number]].tolist()) == tuple(text[: frame.room])


def test_a_template_that_ends_with_the_text_keeps_one_token_of_the_prefix_in_the_row():
    assert PromptTree((Frame((1, 2), (), 5),)).shared == (1,)
    assert PromptTree((Frame((1, 2), (3,), 5),)).shared == (1, 2)


def test_rows_of_one_width_have_the_layout_of_their_texts():
    tree = PromptTree((Frame((1, 2), (3, 4), 10), Frame((1, 2), (), 12)))
    assert tree.layout_of_row(len(tree.row([7, 8, 9]))) is tree.layout(3)


def test_a_plain_row_has_the_layout_of_a_template_with_nothing_but_a_suffix():
    plain, tree = causal_layout(4, 2), PromptTree((Frame((1, 2), (3, 4, 5, 6), 10),)).layout(0)
    assert (plain.width, plain.shared) == (tree.width, tree.shared)
    assert torch.equal(plain.positions, tree.positions)
    assert torch.equal(plain.allowed, tree.allowed)
