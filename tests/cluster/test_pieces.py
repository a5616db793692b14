"""Cleaning and rewriting on a cluster of this machine, against one process."""

from __future__ import annotations

import random
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pytest

from embedding_adaptation.cluster import pieces, session
from embedding_adaptation.cluster.pieces import Piece, PieceWorker, WorkingJob, as_bytes, as_texts, work_through
from embedding_adaptation.pipelines.data_augmentation import cleaning
from embedding_adaptation.pipelines.data_augmentation.cleaning import TextJudge, clean
from embedding_adaptation.pipelines.data_augmentation.generators import rewrite
from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, Request
from embedding_adaptation.pipelines.data_augmentation.options import CleaningOptions, RewriteOptions
from embedding_adaptation.texts.stream import TextStream

WORDS = [
    "the",
    "bus",
    "street",
    "library",
    "council",
    "letter",
    "school",
    "water",
    "house",
    "garden",
    "book",
    "work",
    "people",
    "late",
    "closed",
    "lost",
]
STYLES = {"short": {"instruction": "short {text}"}, "simple": {"instruction": "simple {text}"}}
REWRITING = RewriteOptions.model_validate({"system_prompt": "rewrite", "styles": STYLES, "temperature": 0.6, "max_new_tokens": 6})
CLEANING = CleaningOptions(max_texts=250, max_repeats=20, boilerplate=("Sent from my .+",), languages=("en", "de"), min_words=4)


@pytest.fixture(scope="module")
def ray():
    """Ray, stopped at the end; the first test that needs it starts it."""
    yield pytest.importorskip("ray", reason="Ray is not installed")
    session.stop(succeeded=False)


def corpus(count=600):
    """Texts with duplicates, near-duplicates, repeated sentences, boilerplate and halves of surrogate pairs."""
    rng = random.Random(0)
    texts = []
    for _ in range(count):
        text = " ".join(rng.choices(WORDS, k=rng.randint(3, 25)))
        if texts and rng.random() < 0.4:
            text = rng.choice(texts)
            text = text.upper() if rng.random() < 0.3 else f"{text} {rng.choice(WORDS)}"
        if rng.random() < 0.2:
            text += ". We thank you for your message and will reply soon."
        if rng.random() < 0.1:
            text += "\nSent from my phone \ud800"
        texts.append(text)
    return TextStream.of(pd.DataFrame({"id": [f"t{number}" for number in range(count)], "text": texts}, dtype=object), rows=70)


def requests(count=60):
    rng = random.Random(1)
    return [Request.of(str(n), " ".join(rng.choices(WORDS, k=rng.randint(2, 12))), n, ("short", "simple")[n % 2]) for n in range(count)]


@pytest.fixture
def context(tiny_weights, embedder_options):
    return Context(0, tiny_weights, embedder_options(), None, progress=False)


def on_cluster(context, embedder_options, settings):
    cluster = {"folder": str(settings.folder), "workers": 2, "min_texts": 400, "block_texts": 48}
    return replace(context, embedder_options=embedder_options(cluster=cluster))


@pytest.mark.slow
def test_a_cluster_cleans_as_one_process_does(ray, settings, monkeypatch):
    alone, report = clean(corpus(), CLEANING, 0)
    monkeypatch.setattr(cleaning, "_LINKED_HERE", 0)
    monkeypatch.setattr(cleaning, "_CLEANED_FASTER", 1)
    monkeypatch.setattr(TextJudge, "of", lambda *_: pytest.fail("this process judges"))
    shared, same = clean(corpus(), CLEANING, 0, settings)
    assert same == report
    assert min(report[reason] for reason in ("too_short", "duplicate", "near_duplicate", "not_drawn", "cut_passages")) > 0
    pd.testing.assert_frame_equal(shared.table(), alone.table())
    assert sorted(path.name.partition("-")[0] for path in settings.folder.iterdir()) == ["clean", "duplicates", "passages"]
    session.stop(succeeded=True)
    assert list(settings.folder.iterdir()) == []


@pytest.mark.slow
def test_a_cluster_writes_the_candidates_of_one_process(ray, settings, context, embedder_options, monkeypatch):
    expected = {candidate.key: candidate for candidate in rewrite.generate(requests(), REWRITING, context)}
    monkeypatch.setattr(rewrite, "load_chat_model", lambda *_, **__: pytest.fail("this process writes"))
    made = list(rewrite.generate(iter(requests()), REWRITING, on_cluster(context, embedder_options, settings)))
    assert [repr(candidate) for candidate in made] == [repr(expected[request.key]) for request in requests()]  # repr: NaN equals nothing
    monkeypatch.setattr(session, "connect", lambda _: pytest.fail("it asks for a cluster"))
    again = rewrite.generate(iter(requests()[:55]), REWRITING, on_cluster(context, embedder_options, settings))
    first = next(again)  # finished blocks are kept, and found by a run that asks for fewer
    assert repr(first) == repr(made[0])


def test_blocks_of_requests_end_at_the_same_requests_whatever_comes_before(settings):
    every = requests(200)
    blocks = list(rewrite._blocks(every, replace(settings, block_texts=64)))
    assert [request for block in blocks for request in block] == every
    assert max(map(len, blocks)) <= 16
    later = list(rewrite._blocks(every[37:], replace(settings, block_texts=64)))
    assert blocks[-3:] == later[-3:]


def test_few_texts_and_requests_are_left_to_this_process(settings, context, embedder_options, monkeypatch):
    monkeypatch.setattr(session, "connect", lambda _: pytest.fail("it asks for a cluster"))
    stream, report = clean(corpus(500), CLEANING, 0, replace(settings, min_texts=3))
    assert len(stream.table()) == report["kept"]
    assert len(list(rewrite.generate(requests(9), REWRITING, on_cluster(context, embedder_options, settings)))) == 9


def test_what_workers_say_comes_in_order_and_is_kept(settings, monkeypatch):
    options = CleaningOptions()
    asked = []

    def run_pool(worker, job, parts, _, __):
        own = worker(job)
        for index in reversed(parts):
            part = parts[index]
            asked.append(index)
            names = {"index": index, "folder": str(part.folder), "number": part.number, "fingerprint": part.fingerprint, "rows": part.rows}
            yield int(own({name: pd.Series([value]) for name, value in names.items()})["index"][0])

    monkeypatch.setattr(pieces, "run_pool", run_pool)
    judge = TextJudge(options, 0, None)
    texts = [piece["text"].tolist() for piece in corpus(300).pieces()]

    def judged(number):
        tables = (pa.table({"text": as_bytes(part)}) for part in texts[:number])
        arguments = {"options": options, "seed": 0, "repeated": None}
        for made in work_through(tables, TextJudge, arguments, settings, name="clean", identity=["clean"]):
            yield judge.read(made)

    for part, made in zip(texts, judged(5), strict=True):
        expected = judge.of(part)
        assert (made.verdicts == expected.verdicts).all()
        assert (made.digests == expected.digests).all()
        assert (made.words == expected.words).all()
        assert (made.raw == expected.raw).all()
        assert (made.signed.keys == expected.signed.keys).all()
        assert (made.signed.signatures == expected.signed.signatures).all()
        assert made.cut == expected.cut
    assert asked == [4, 3, 2, 1, 0]
    assert not list((next(settings.folder.iterdir()) / "given").iterdir())
    assert len(list(judged(3))) == 3
    damaged = sorted(settings.folder.glob("*/made/*.parquet"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-10])
    del asked[:]
    assert len(list(judged(5))) == 5
    assert len(asked) == 1


def test_a_finished_piece_is_not_made_again(settings):
    piece = Piece(settings.folder, 0, "f" * 32, 1)
    pieces._write(pa.table({"text": as_bytes(["one two three"])}), piece.given)
    worker = PieceWorker(WorkingJob(TextJudge, {"options": CleaningOptions(), "seed": 0, "repeated": None}, None, 1))
    batch = {"index": [0], "folder": [str(piece.folder)], "number": [0], "fingerprint": [piece.fingerprint], "rows": [1]}
    batch = {name: pd.Series(values) for name, values in batch.items()}
    worker(batch)
    assert piece.is_finished()
    written = piece.made.stat().st_mtime_ns
    piece.given.unlink()
    worker(batch)
    assert piece.made.stat().st_mtime_ns == written


def test_texts_are_passed_on_as_they_are():
    texts = ["é", "", "half \ud800 a pair", "two\nlines"]
    assert as_texts(pa.chunked_array([as_bytes(texts)])) == texts
