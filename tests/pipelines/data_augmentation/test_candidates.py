from __future__ import annotations

import dataclasses
import hashlib
import json

import pandas as pd
import pytest

from embedding_adaptation.pipelines.data_augmentation import candidates as module
from embedding_adaptation.pipelines.data_augmentation.candidates import COMPLETE, folder_name, generate, make_context, plan, present
from embedding_adaptation.pipelines.data_augmentation.generators import noise
from embedding_adaptation.pipelines.data_augmentation.generators.request import GenerationError, load_generator
from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions, GeneratorsOptions
from embedding_adaptation.texts.stream import TextStream

TABLE = pd.DataFrame({"id": [str(n) for n in range(20)], "text": [f"the bus number {n} is late in the street" for n in range(20)]})
STYLES = {name: {"instruction": name + " {text}"} for name in ("short", "simple", "other")}
REWRITE = {"system_prompt": "rewrite", "styles": STYLES, "max_new_tokens": 4}


def options(generators=None, **changes):
    values = {"cleaning": {}, "generators": generators or {"noise": {}}, "shard_size": 6, "seed": 0}
    return AugmentationOptions.model_validate(values | changes)


@pytest.fixture
def made(tiny_weights, embedder_options):
    def make(chosen, table=TABLE, done=None):
        context = make_context(tiny_weights, chosen, embedder_options())
        shards = {}
        for shard in generate(TextStream.of(table, 7), done or {}, chosen, context):
            shards |= shard
        return shards

    return make


def together(shards):
    return pd.concat(shards.values()).sort_values("key", ignore_index=True)


def test_shards_are_full_and_carry_provenance(made):
    shards = made(options())
    assert [len(shard) for shard in shards.values()] == [6, 6, 6, 2]
    rows = together(shards)
    assert set(rows["source_id"]) == set(TABLE["id"])
    assert {"key", "source_text", "generated_text", "generator", "style", "model", "revision", "seed", "fingerprint", "finished"} <= set(
        rows
    )
    assert set(rows["generator"]) == {"noise"}


@pytest.mark.parametrize("generators", [{"noise": {}}, {"rewrite": REWRITE}], ids=["noise", "rewrite"])
def test_the_size_of_shards_and_batches_changes_no_candidate(made, generators):
    one = together(made(options(generators)))
    if "rewrite" in generators:
        generators = {"rewrite": REWRITE | {"batch_size": 2}}
    other = together(made(options(generators, shard_size=100)))
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize(
    "generators",
    [
        {"noise": {}},
        {"rewrite": REWRITE},
        {"neighbours": {"strategy": "prompted_last", "min_similarity": -1, "near_duplicate": 1}},
    ],
)
def test_what_a_crash_left_is_kept_and_the_rest_is_made(made, generators):
    chosen = options(generators, shard_size=4)
    whole = made(chosen)
    names = sorted(whole)
    assert len(names) > 2
    left = {name: whole[name] for name in names[:2]}
    rest = made(chosen, done=left)
    assert not set(rest) & set(left)
    pd.testing.assert_frame_equal(together(left | rest), together(whole))
    assert made(chosen, done=left | rest) == {}


def test_texts_that_come_and_go_leave_the_others_alone(made):
    first = made(options())
    more = pd.concat([pd.DataFrame({"id": ["new"], "text": ["water in the house again today"]}), TABLE.iloc[::-1]])
    rest = made(options(), more, first)
    assert together(rest)["source_id"].tolist() == ["new"]


def test_only_candidates_of_these_texts_and_options_are_present(made, tiny_weights, embedder_options):
    chosen = options()
    shards = made(chosen) | made(options({"noise": {"delete_words": 0.5}}))
    context = make_context(tiny_weights, chosen, embedder_options())
    fewer = TextStream.of(TABLE.head(5))
    found = pd.concat(frame for _, frame in present(fewer, shards, chosen, context))
    assert sorted(found["source_id"]) == ["0", "1", "2", "3", "4"]
    doubled = shards | {name.replace("000000", "000009"): frame for name, frame in shards.items()}
    assert len(pd.concat(frame for _, frame in present(fewer, doubled, chosen, context))) == 5


def test_folders_change_with_everything_that_decides_and_nothing_else(tiny_weights, embedder_options):
    corpus = TextStream.of(TABLE)

    def name(generator, seed=0, **changes):
        chosen = options({generator: changes}, seed=seed)
        return folder_name(generator, getattr(chosen.generators, generator), corpus, make_context(tiny_weights, chosen, embedder_options()))

    rewrite = name("rewrite", **REWRITE)
    assert rewrite == name("rewrite", **REWRITE, batch_size=3, memory_mb=100, weight=2)
    neighbours = {"strategy": "prompted_last"}
    folders = [
        rewrite,
        name("rewrite", seed=1, **REWRITE),
        name("rewrite", **REWRITE, temperature=0.7),
        name("rewrite", **REWRITE | {"styles": {"short": STYLES["short"]}}),
        name("noise"),
        name("noise", delete_words=0.2),
        name("neighbours", **neighbours),
        name("neighbours", **neighbours, weight=0.5),
        name("neighbours", **neighbours, min_similarity=0.6),
        name("neighbours", strategy="bare_mean"),
    ]
    assert len(set(folders)) == len(folders)


def test_a_strategy_by_another_name_makes_no_other_neighbours_and_another_definition_does(tiny_weights, embedder_options):
    corpus = TextStream.of(TABLE)

    def name(title, **changes):
        chosen = options({"neighbours": {"strategy": title}})
        strategies = embedder_options().model_dump()["strategies"]
        strategies[title] = {"weights": "base", "template": ["bare", "one_word"], "pooling": "last"} | changes
        context = make_context(tiny_weights, chosen, embedder_options(strategies=strategies))
        return folder_name("neighbours", chosen.generators.neighbours, corpus, context)

    assert name("family") == name("relatives")
    changes = [{"combine": "concatenate"}, {"after": {"centre": True}}, {"layers": [-2]}, {"template": "bare"}, {"pooling": "mean"}]
    assert len({name("family"), *(name("family", **change) for change in changes)}) == len(changes) + 1


def test_rewritten_candidates_are_where_earlier_versions_kept_them(tiny_weights, embedder_options):
    chosen = options({"rewrite": REWRITE})
    rewrite = chosen.generators.rewrite
    deciding = {
        field: value for field, value in rewrite.model_dump(mode="json").items() if field not in {"weight", "memory_mb", "batch_size"}
    }
    parts = json.dumps(["rewrite", deciding, 0, tiny_weights.card.sha256], sort_keys=True)
    context = make_context(tiny_weights, chosen, embedder_options())
    expected = f"rewrite-{hashlib.sha256(parts.encode()).hexdigest()[:12]}"
    assert folder_name("rewrite", rewrite, TextStream.of(TABLE), context) == expected


def test_neighbours_of_an_older_format_are_told_of_and_made_again(made, caplog):
    chosen = options({"neighbours": {"strategy": "prompted_last", "min_similarity": -1, "near_duplicate": 1}, "noise": {}})
    older = {"neighbours-0123456789ab/000000": pd.DataFrame(), f"neighbours-0123456789ab/{COMPLETE}": pd.DataFrame()}
    shards = made(chosen, done=older)
    assert any(name.startswith("format-2/neighbours-") for name in shards)
    assert [message for message in caplog.messages if "a format other" in message] == [
        "candidate_pairs (neighbours) contains data in a format other than 2, the one this version writes; they are not used and can be "
        "deleted: what is needed of them is computed again"
    ]
    caplog.clear()
    assert made(chosen, done=shards | older) == {}
    assert "a format other" not in caplog.text


def test_weights_say_how_often_a_text_is_taken():
    corpus = TextStream.of(pd.DataFrame({"id": [str(n) for n in range(1000)], "text": [f"text number {n}" for n in range(1000)]}))

    def planned(generator, **changes):
        chosen = options({generator: changes}).generators
        return list(plan(corpus, generator, getattr(chosen, generator), 0))

    assert 430 < len(planned("noise", weight=0.5)) < 570
    twice = planned("noise", weight=2)
    assert len(twice) == 2000
    assert len({request.key for request in twice}) == 2000
    styled = planned("rewrite", **REWRITE, weight=2)
    by_text = pd.DataFrame([(r.source_id, r.style) for r in styled], columns=["id", "style"])
    assert by_text.groupby("id")["style"].nunique().eq(2).all()
    assert by_text["style"].value_counts().between(580, 750).all()


def test_a_generator_that_fails_loses_nothing_it_has_made(made, monkeypatch, tiny_weights, embedder_options):
    right = noise.GENERATOR

    def failing(requests, chosen, context):
        for number, candidate in enumerate(right.generate(requests, chosen, context)):
            if number == 8:
                raise GenerationError("the server went away")
            yield candidate

    monkeypatch.setattr(noise, "GENERATOR", dataclasses.replace(right, generate=failing))
    chosen, shards = options(), {}
    context = make_context(tiny_weights, chosen, embedder_options())
    made_of = generate(TextStream.of(TABLE), {}, chosen, context)
    shards |= next(made_of) | next(made_of)
    with pytest.raises(GenerationError, match="the server went away"):
        next(made_of)
    assert [len(shard) for shard in shards.values()] == [6, 2]
    monkeypatch.setattr(noise, "GENERATOR", right)
    rest = made(chosen, done=shards)
    pd.testing.assert_frame_equal(together(shards | rest), together(made(chosen)))


def test_neighbours_are_complete_or_made_again(made):
    chosen = options(
        {"neighbours": {"strategy": "prompted_last", "min_similarity": -1, "near_duplicate": 1}},
        shard_size=3,
    )
    shards = made(chosen)
    assert sum(name.endswith(COMPLETE) for name in shards) == 1
    assert made(chosen, done=shards) == {}
    without = {name: frame for name, frame in shards.items() if not name.endswith(COMPLETE)}
    assert [name.rpartition("/")[2] for name in made(chosen, done=without)] == [COMPLETE]


def test_no_generator_is_refused():
    with pytest.raises(ValueError, match="no generator has a weight above 0"):
        options({"noise": {"weight": 0}})
    assert "noise" in module.GeneratorName.__args__


@pytest.mark.parametrize(
    "generators",
    [
        {"noise": {}},
        {"neighbours": {"strategy": "prompted_last", "min_similarity": -1, "near_duplicate": 1}},
    ],
)
def test_damaged_shards_are_made_again_under_their_names(made, generators, tmp_path):
    from embedding_adaptation.datasets.shards import ShardsDataset

    chosen = options(generators, shard_size=4)
    dataset = ShardsDataset(filepath=str(tmp_path))
    whole = made(chosen)
    dataset.save(whole)
    names = sorted(name for name in whole if not name.endswith(COMPLETE))
    for name in (names[0], names[-2]):
        file = tmp_path / f"{name}.parquet"
        file.write_bytes(file.read_bytes()[:-20])
    again = made(chosen, done=dataset.load())
    assert {names[0], names[-2]} <= set(again)
    assert not (set(again) - {names[0], names[-2]}) - {name for name in whole if name.endswith(COMPLETE)}
    dataset.save(again)
    now = {name: frame for name, frame in dataset.load().items() if not name.endswith(COMPLETE)}
    pd.testing.assert_frame_equal(together(now), together({name: whole[name] for name in names}))
    assert made(chosen, done=dataset.load()) == {}


def test_every_generator_named_in_the_options_is_a_plug_in():
    """What is asked of a generator stands in its module; no other code knows it by name."""
    generators = {name: load_generator(name) for name in GeneratorsOptions.model_fields}
    assert {name for name, generator in generators.items() if generator.whole_corpus} == {"neighbours", "given"}
    assert {name for name, generator in generators.items() if not generator.repeatable} == {"back_translation", "identity"}
    assert {name for name, generator in generators.items() if generator.is_written} == {"rewrite", "back_translation"}
    assert {name for name, generator in generators.items() if not generator.from_corpus} == {"given"}
