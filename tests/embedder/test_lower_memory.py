from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.lower_memory import LowerMemory
from embedding_adaptation.embedder.prompt_tree import PromptTree
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import Frame, PromptTemplate
from embedding_adaptation.embedder.training_pass import TrainingPass

TREE, OTHER = PromptTree((Frame((1,), (2,), 9),)), PromptTree((Frame((1,), (3,), 9),))
ROWS = [(4, 5, 2), (6, 2)]
STATES = torch.arange(10.0).view(5, 2)
ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
TOPIC = PromptTemplate("topic", 'This sentence: "{text}" has the topic "')
TEXTS = ["the bus is late", "please give back the book", "water " * 30, "bus", "who will come to the garden after work"]
STRATEGIES = [
    Strategy("last", ONE_WORD, "last"),
    Strategy("values", TOPIC, "value_weighted", layers=(-1,)),
    Strategy("both", (ONE_WORD, TOPIC), "value_weighted", layers=(-1, -2), combine="concatenate"),
]


def test_what_was_added_is_found_row_by_row():
    memory = LowerMemory()
    assert memory.of("base", TREE, ROWS) is None
    memory.add("base", TREE, ROWS, STATES)
    torch.testing.assert_close(memory.of("base", TREE, ROWS), STATES)
    torch.testing.assert_close(memory.of("base", TREE, ROWS[::-1]), STATES[[3, 4, 0, 1, 2]])
    assert memory.of("base", TREE, [*ROWS, (7, 2)]) is None
    assert memory.of("base", OTHER, ROWS) is None
    assert memory.of("another", TREE, ROWS) is None
    assert memory.rows_read == 4


def test_other_base_weights_take_the_room_and_what_does_not_fit_is_not_kept():
    memory = LowerMemory(limit_mb=1)
    large = torch.zeros(3, 1 << 16)  # three quarters of a megabyte
    memory.add("base", TREE, [(1, 2, 3)], large)
    memory.add("base", TREE, [(4, 5, 6)], large)
    assert memory.of("base", TREE, [(1, 2, 3)]) is not None
    assert memory.of("base", TREE, [(4, 5, 6)]) is None
    memory.add("another", TREE, [(4, 5, 6)], large)
    assert memory.of("another", TREE, [(4, 5, 6)]) is not None
    assert memory.of("base", TREE, [(1, 2, 3)]) is None


@pytest.fixture
def adapted(tiny_weights):
    """A maker of the tiny model with an adapter on given layers, of known base weights."""

    def make(layers: list[int]) -> Embedder:
        embedder = Embedder.load(tiny_weights, device="cpu", dtype="float32", max_length=64)
        modules = [f"layers.{layer}.{name}" for layer in layers for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")]
        config = LoraConfig(target_modules=modules, init_lora_weights=False)
        torch.manual_seed(0)
        embedder.backbone = get_peft_model(embedder.backbone, config).eval()
        embedder._loaded = (embedder._loaded[0], embedder._weights_state())
        return embedder

    return make


def test_an_adapted_model_starts_from_what_the_base_model_computed(tiny_weights, adapted):
    memory = LowerMemory()
    base = Embedder.load(tiny_weights, device="cpu", dtype="float32", max_length=64)
    embedder = adapted([1, 2])
    apart = [one.encode_strategies(TEXTS, STRATEGIES, progress=False) for one in (base, embedder)]
    base.lower_memory = embedder.lower_memory = memory
    together = [one.encode_strategies(TEXTS, STRATEGIES, progress=False) for one in (base, embedder)]
    assert memory.rows_read == len(TEXTS)
    for expected, found in zip(apart, together, strict=True):
        for name, vectors in expected.items():
            np.testing.assert_allclose(found[name], vectors, atol=1e-5)
    assert np.abs(together[0]["last"] - together[1]["last"]).max() > 1e-3
    more = embedder.encode_strategies([*TEXTS, "a street"], STRATEGIES, progress=False)
    np.testing.assert_allclose(more["both"][:-1], apart[1]["both"], atol=1e-5)


def test_nothing_is_shared_where_it_would_not_be_the_same(tiny_weights, adapted):
    memory = LowerMemory()
    base = Embedder.load(tiny_weights, device="cpu", dtype="float32", max_length=64)
    base.lower_memory = memory
    base.encode_strategies(TEXTS, STRATEGIES, progress=False)
    lower = adapted([0, 1, 2])
    unknown = copy.copy(base)
    unknown._loaded = None
    for embedder in (lower, unknown):
        embedder.lower_memory = memory
        embedder.encode_strategies(TEXTS, STRATEGIES, progress=False)
    base.encode_strategies(TEXTS, [Strategy("below", ONE_WORD, "last", layers=(1, -1))], progress=False)
    assert memory.rows_read == 0
    with torch.no_grad():
        base.backbone.layers[0].mlp.up_proj.weight.mul_(1.5)
    base.encode_strategies(TEXTS, STRATEGIES, progress=False)
    assert memory.rows_read == 0


def test_a_template_alone_takes_its_part_of_rows_that_it_shared(tiny_weights, adapted):
    memory = LowerMemory()
    base = Embedder.load(tiny_weights, device="cpu", dtype="float32", max_length=64)
    base.lower_memory = memory
    base.encode_strategies(TEXTS, STRATEGIES, progress=False)
    for template in (ONE_WORD, TOPIC):
        training_pass = TrainingPass(adapted([1, 2]).backbone, template.frame(base.tokenizer, 64), "last", 1)
        rows = [training_pass.row(ids) for ids in template.text_ids([*TEXTS, "unseen"], base.tokenizer)]
        found = memory.of_frame(base.lower_key(), training_pass.frame, rows)
        assert [state is None for state in found] == [False, False, True, False, False, True], "one is too long, one was not read"
        for state, expected in zip(found, training_pass.lower_states(rows), strict=True):
            if state is not None:
                torch.testing.assert_close(state, expected, atol=1e-5, rtol=1e-4)
    other = PromptTemplate("other", 'This sentence: "{text}" is').frame(base.tokenizer, 64)
    assert memory.of_frame(base.lower_key(), other, [(1, 2, *other.suffix)]) == [None]
    assert memory.of_frame("another", training_pass.frame, rows[:1]) == [None]
