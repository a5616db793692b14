from __future__ import annotations

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from pydantic import ValidationError

from embedding_adaptation.datasets.chat_server import ChatServerKey
from embedding_adaptation.datasets.shards import ShardsDataset
from embedding_adaptation.identity import TextsIdentity
from embedding_adaptation.pipelines.data_augmentation import create_pipeline
from embedding_adaptation.pipelines.data_augmentation.nodes import AugmentationError, clean_corpus, plot_augmentation
from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions
from embedding_adaptation.repeatable import is_repeatable
from embedding_adaptation.texts.stream import TextStream

STYLES = {name: {"instruction": f"{name} {{text}}"} for name in ("a", "b", "c")}
OFF = dict.fromkeys(("cut_off", "length", "language", "question", "repetition", "facts", "drift"))
TABLE = pd.DataFrame(
    {"id": [str(n) for n in range(12)], "text": [f"the {thing} {place}" for thing in ("bus is late", "water is cold", "letter came")
                                                 for place in ("today", "in the house", "at school", "on the street")]}
)  # fmt: skip


def options(**changes):
    values = {
        "cleaning": {"near_duplicates": 1.0},
        "generators": {
            "rewrite": {"system_prompt": "rewrite", "styles": STYLES, "max_new_tokens": 3},
            "noise": {},
            "neighbours": {"strategy": "prompted_last", "min_similarity": -1.0},
        },
        "filters": OFF,
        "shard_size": 5,
        "seed": 0,
    }
    return AugmentationOptions.model_validate(values | changes)


@pytest.fixture
def run(tiny_weights, embedder_options, store, tmp_path):
    def start(chosen, table=TABLE, nodes=()):
        catalog = DataCatalog(
            {
                "corpus": MemoryDataset(TextStream.of(table)),
                "base_model": MemoryDataset(tiny_weights, copy_mode="assign"),
                "chat_server": MemoryDataset(ChatServerKey()),
                "embedding_store": MemoryDataset(store, copy_mode="assign"),
                "params:data_augmentation": MemoryDataset(chosen),
                "params:embedder": MemoryDataset(embedder_options()),
                "params:contrastive_finetuning.steps": MemoryDataset(24),
                "params:contrastive_finetuning.batch_size": MemoryDataset(96),
                "candidate_pairs": ShardsDataset(filepath=str(tmp_path / "candidates")),
                "finished_candidates": ShardsDataset(filepath=str(tmp_path / "candidates")),
                "pair_scores": ShardsDataset(filepath=str(tmp_path / "scores")),
                "finished_scores": ShardsDataset(filepath=str(tmp_path / "scores")),
                **{
                    name: MemoryDataset(copy_mode="assign")
                    for name in ("clean_corpus", "corpus_report", "positive_pairs", "rejected_pairs", "augmentation_report")
                },
            }
        )
        pipeline = create_pipeline()
        SequentialRunner().run(pipeline.to_nodes("select_pairs_node"), catalog)
        return catalog

    return start


def test_a_corpus_becomes_accepted_and_rejected_pairs_with_their_history(run):
    catalog = run(options())
    accepted, rejected = (catalog.load(f"{kind}_pairs").table() for kind in ("positive", "rejected"))
    report = catalog.load("augmentation_report")
    assert len(accepted) + len(rejected) == report["candidates"]
    assert set(report["generators"]) == {"rewrite", "noise", "neighbours"}
    assert {
        "pair_id", "source_id", "source_text", "generated_text", "generator", "style", "model", "revision", "seed", "fingerprint",
        "copy_similarity", "length_ratio", "similarity", "verdict",
    } <= set(accepted)  # fmt: skip
    assert set(rejected["reason"]) <= {reason for reason, count in report["rejected"].items() if count}
    assert accepted["pair_id"].is_unique
    neighbours = accepted[accepted["generator"] == "neighbours"]
    assert set(neighbours["other_id"]) <= set(TABLE["id"])
    assert len(plot_augmentation(report).axes) >= 1


def test_pairs_name_the_clean_texts_they_come_from_as_the_corpus_report_does(run, tmp_path, embedder_options):
    (tmp_path / "given.csv").write_text("first,second\nmine,yours\n")
    given = {"path": str(tmp_path / "given.csv"), "first_column": "first", "second_column": "second"}
    table = pd.concat([TABLE, TABLE.assign(id=TABLE["id"] + "again")], ignore_index=True)  # duplicates are cleaned away
    chosen = options(generators={"identity": {}, "given": given})
    clean, report = clean_corpus(TextStream.of(table), chosen, embedder_options())
    identity = report["identity"]
    assert identity["clean"] == TextsIdentity(clean.table()["text"]).hexdigest()
    assert identity["raw"] == TextsIdentity(table["text"]).hexdigest() != identity["clean"]
    pairs = run(chosen, table).load("positive_pairs").table()
    named = pairs.groupby("generator")["corpus"].unique().map(list).to_dict()
    assert named == {"given": [""], "identity": [identity["clean"]]}


def test_a_second_run_makes_nothing_again_and_comes_to_the_same(run, tmp_path):
    first = run(options()).load("positive_pairs").table()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    second = run(options(shard_size=50)).load("positive_pairs").table()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == before
    pd.testing.assert_frame_equal(first, second)


def test_thresholds_change_verdicts_without_scoring_again(run, tmp_path):
    loose = run(options()).load("augmentation_report")
    before = set(tmp_path.rglob("*.parquet"))
    strict = options(filters=OFF | {"copy": {"generators": ["neighbours"], "max_similarity": 0.0}})
    report = run(strict).load("augmentation_report")
    assert set(tmp_path.rglob("*.parquet")) == before
    assert report["accepted"] < loose["accepted"]
    assert report["generators"]["neighbours"]["accepted"] == 0


def test_no_accepted_pair_is_an_error_with_the_reasons(run):
    nothing = options(generators={"identity": {}}, filters=OFF | {"copy": {"generators": ["identity"], "max_similarity": 0.5}})
    with pytest.raises(AugmentationError, match=r"none of 12 candidates passed the filters \(rejected: {'copy': 12}\)"):
        run(nothing)


def test_drift_is_judged_under_the_base_model(run):
    filters = OFF | {"drift": {"generators": ["noise"], "strategy": "prompted_last", "percentile": 100.0, "reference_texts": 12}}
    catalog = run(options(generators={"noise": {"delete_words": 0.6}}, filters=filters))
    pairs = pd.concat([catalog.load("positive_pairs").table(), catalog.load("rejected_pairs").table()])
    assert pairs["percentile"].between(0, 100).all()
    assert set(pairs.loc[pairs["percentile"] < 100, "reason"]) <= {"drift"}


def test_cleaning_takes_the_options(embedder_options):
    clean, report = clean_corpus(TextStream.of(TABLE), options(cleaning={"max_texts": 5}), embedder_options())
    assert report["kept"] == len(clean.table()) == 5


@pytest.mark.parametrize("styles", [{}, {"a": {"instruction": "no slot"}}, {"a": {"instruction": "{text}", "tone": "warm"}}])
def test_wrong_styles_are_refused(styles):
    with pytest.raises(ValidationError):
        options(generators={"rewrite": {"system_prompt": "", "styles": styles}})


def test_only_styles_in_use_are_looked_at():
    styles = {name: {"instruction": f"{name}: {{text}}"} for name in "abc"}
    rewrite = options(generators={"rewrite": {"system_prompt": "", "styles": styles, "use": ["c", "a"]}}).generators.rewrite
    assert list(rewrite.styles) == ["c", "a"]
    with pytest.raises(ValidationError, match=r"unknown style 'd' in rewrite\.use; choose from a, b, c"):
        options(generators={"rewrite": {"system_prompt": "", "styles": styles, "use": ["d"]}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cleaning": {"min_words": 5, "max_words": 4}}, "which leaves no text"),
        ({"cleaning": {"boilerplate": ["(unclosed"]}}, "not a regular expression"),
        ({"filters": {"drift": {"generators": ["rewriter"]}}}, "rewriter"),
        ({"filters": {"polish": {}}}, "polish"),
        ({"generators": {"rewrite": {"system_prompt": "", "styles": STYLES, "server": {"url": "localhost:8000", "model": "m"}}}}, "url"),
    ],
)
def test_wrong_options_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        options(**changes)


def test_the_corpus_report_names_the_corpus(embedder_options):
    stream = TextStream.of(TABLE)
    stream.name = "mine.txt"
    assert clean_corpus(stream, options(), embedder_options())[1]["corpus"] == "mine.txt"


@pytest.mark.parametrize(("server", "repeatable"), [(None, True), ({"url": "http://localhost:1/v1", "model": "a"}, False)])
def test_candidates_of_a_server_are_not_taken_from_an_earlier_run(server, repeatable):
    rewrite = {"system_prompt": "rewrite", "styles": STYLES, "server": server}
    (node,) = (node for node in create_pipeline().nodes if node.name == "generate_candidates_node")
    given = {"params:data_augmentation": options(generators={"rewrite": rewrite})}
    assert is_repeatable(node.func, [given.get(name, 1) for name in node.inputs]) is repeatable
