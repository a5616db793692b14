from __future__ import annotations

import dataclasses
import shutil

import pytest

from embedding_adaptation.pipelines.data_augmentation.generators import rewrite
from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, GenerationError, Request
from embedding_adaptation.pipelines.data_augmentation.options import RewriteOptions

REQUESTS = [Request.of(str(n), "bus " * (n + 1) + "in the street", 0, ("short", "simple")[n % 2]) for n in range(9)]


def options(**changes):
    styles = {
        "short": {"instruction": "short {text}", "examples": [{"text": "please help", "rewrite": "help"}]},
        "simple": {"instruction": "simple {text}"},
    }
    values = {"system_prompt": "rewrite", "styles": styles, "temperature": 0.6, "max_new_tokens": 6, "batch_size": 4}
    return RewriteOptions.model_validate(values | changes)


@pytest.fixture
def context(tiny_weights, embedder_options):
    return Context(0, tiny_weights, embedder_options(), None, progress=False)


def made(requests, chosen, context):
    return {candidate.key: candidate for candidate in rewrite.generate(requests, chosen, context)}


def test_every_request_is_answered_the_same_whatever_the_batch(context):
    together = made(REQUESTS, options(), context)
    assert set(together) == {request.key for request in REQUESTS}
    assert together == made(REQUESTS, options(batch_size=1), context) == made(REQUESTS[::-1], options(batch_size=9), context)
    assert made(REQUESTS[3:5], options(), context) == {request.key: together[request.key] for request in REQUESTS[3:5]}
    assert len({candidate.generated_text for candidate in together.values()}) > 5


def test_seed_and_temperature_change_answers(context):
    base = made(REQUESTS, options(), context)
    assert base != made(REQUESTS, options(), dataclasses.replace(context, seed=1))
    assert base != made(REQUESTS, options(temperature=1.5), context)
    greedy = options(temperature=0.0)
    assert made(REQUESTS, greedy, context) == made(REQUESTS, greedy, dataclasses.replace(context, seed=1))


def test_windows_change_nothing(context, monkeypatch):
    base = made(REQUESTS, options(), context)
    monkeypatch.setattr(rewrite, "_WINDOW", 2)
    assert made(REQUESTS, options(), context) == base
    assert made([], options(), context) == {}


def test_a_conversation_shows_the_examples_first():
    turns = rewrite.conversation(REQUESTS[0], options())
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[1]["content"] == "short please help"
    assert turns[-1]["content"] == "short bus in the street"


def test_a_text_beyond_the_window_is_cut_and_the_pair_shows_it(context):
    long = Request.of("1", "water house street " * 1500, 0, "simple")
    (candidate,) = rewrite.generate([long], options(), context)
    assert 10 < len(candidate.source_text.split()) < 4500
    assert long.source_text.startswith(candidate.source_text)
    huge = options(styles={"simple": {"instruction": "please " * 3000 + "{text}"}})
    with pytest.raises(GenerationError, match="style 'simple' and its examples leave no room"):
        list(rewrite.generate([long], huge, context))


def test_a_model_without_chat_template_is_refused(context, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(context.base_model.base, folder)
    rewrite.check(options(), context)
    (folder / "chat_template.jinja").unlink()
    other = dataclasses.replace(context.base_model, base=folder)
    for attempt in (
        lambda: rewrite.check(options(), dataclasses.replace(context, base_model=other)),
        lambda: list(rewrite.generate(REQUESTS, options(), dataclasses.replace(context, base_model=other))),
    ):
        with pytest.raises(GenerationError, match=r"has no chat template.*choose its instruction-tuned version"):
            attempt()
    rewrite.check(options(server={"url": "http://localhost:1/v1", "model": "m"}), dataclasses.replace(context, base_model=other))
