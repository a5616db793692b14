"""Names of clusters for a reader to judge: python benchmarks/cluster_names.py FILE:CLUSTERS [FILE:CLUSTERS ...] --save FOLDER.

Each FILE has a column ``text``, of which 1,000 distinct texts are drawn, embedded as text_clustering does with base weights (vectors are
kept in FOLDER) and clustered. FOLDER/cluster_names.csv lists for each cluster the name made of its distinctive words, what the base model
proposes, and whether the proposal passes the checks of text_clustering (it is short and has a distinctive word); proposals that copy a
text are not repeated there. FOLDER/cluster_texts.txt shows the five nearest and eight random texts of each cluster. The columns
words_accepted and model_accepted are the reader's: yes or no. With ``--judged FILE``, they are taken from a table where names are the
same, and shares are printed.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from _workload import default_weights
from cluster_number import embedded, options_of

from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.text_clustering.clustering import cluster_vectors
from embedding_adaptation.pipelines.text_clustering.naming import model_answers, name_clusters, usable_names
from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions
from embedding_adaptation.pipelines.text_clustering.profiles import profile_clusters
from embedding_adaptation.pipelines.text_clustering.word_names import share_a_word
from embedding_adaptation.pipelines.text_clustering.words import words_of
from embedding_adaptation.texts.language import languages_of
from embedding_adaptation.texts.stream import TextStream
from embedding_adaptation.texts.word_forms import stemmer
from embedding_adaptation.vectors.store import VectorStore

COLUMNS = ("set", "cluster", "size", "words_name", "words_accepted", "model_name", "model_accepted", "model_passes")
YES, NO = "yes", "no"
RANDOM = 8
LONGEST_NAME = 80
COPY, COPIED_WORDS = "(copies a text)", 5


def candidates(path: Path, clusters: int, count: int, folder: Path) -> Iterator[tuple[dict[str, str], str]]:
    """A row of the table and the texts to judge it by, for each cluster."""
    texts = pd.read_csv(path)["text"].drop_duplicates().sample(frac=1, random_state=0).head(count).tolist()
    options = TextClusteringOptions.model_validate({**options_of("text_clustering"), "clusters": clusters})
    embedder_options = EmbedderOptions.model_validate(options_of("embedder"))
    found, _ = cluster_vectors(VectorStore.of(embedded(texts, folder)), options)
    corpus = TextStream.of(pd.DataFrame({"id": [str(row) for row in range(len(texts))], "text": texts}))
    profiles = profile_clusters(corpus, found, options)
    nearest, words = profiles["nearest"].tolist(), profiles["words"].tolist()
    weights = default_weights()
    by_words = name_clusters(nearest, words, weights, options.naming.model_copy(update={"model": False}), embedder_options)
    answers = model_answers(nearest, weights, options.naming, embedder_options)
    languages = languages_of(nearest)
    usable = usable_names(answers, nearest, options.naming)
    rng = np.random.default_rng(0)
    for cluster, row in profiles.iterrows():
        proposal = " ".join(answers[cluster][0].split())[:LONGEST_NAME]
        stem = stemmer(languages[cluster])
        passes = any(share_a_word(usable[cluster], word, stem) for word in row["words"])
        if copies(proposal, row["nearest"]):
            proposal = COPY
        rows = rng.permutation(np.flatnonzero(found.labels == cluster))[:RANDOM]
        shown = [*row["nearest"], "-", *(texts[one] for one in rows)]
        title = f"{path.stem} {cluster} ({row['size']} texts)\n  words: {by_words[cluster].name}\n  model: {proposal}"
        values = (path.stem, cluster, row["size"], by_words[cluster].name, "", proposal, "", YES if passes else NO)
        yield dict(zip(COLUMNS, map(str, values), strict=True)), "\n    ".join([title, *(" ".join(text.split())[:200] for text in shown)])


def copies(proposal: str, texts: list[str]) -> bool:
    """Whether a proposal has five words in a row from one of the texts that the model was shown."""
    words = words_of(proposal)
    runs = {" ".join(words[first : first + COPIED_WORDS]) for first in range(len(words) - COPIED_WORDS + 1)}
    return any(run in " ".join(words_of(text)) for text in texts for run in runs)


def judge(rows: list[dict[str, str]], judged: Path) -> None:
    """Take the judgements of names that are the same, and print shares."""
    with judged.open(encoding="utf-8", newline="") as file:
        known = {(row["set"], row[name]): row[accepted] for row in csv.DictReader(file) for name, accepted in JUDGED.items()}
    for row in rows:
        for name, accepted in JUDGED.items():
            row[accepted] = known.get((row["set"], row[name]), "")
    for title, name, some in (
        ("made of distinctive words", "words_accepted", rows),
        ("proposed by the base model", "model_accepted", rows),
        ("proposed and past the checks", "model_accepted", [row for row in rows if row["model_passes"] == YES]),
    ):
        decided = [row for row in some if row[name]]
        accepted = sum(row[name] == YES for row in decided)
        print(f"{title:<32}{accepted:>4} of {len(decided)} accepted ({len(some) - len(decided)} not judged)")


JUDGED = {"words_name": "words_accepted", "model_name": "model_accepted"}


def main() -> None:
    """Write the table and the texts to judge it by."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="csv files with the column text, each with :CLUSTERS")
    parser.add_argument("--save", type=Path, required=True, help="folder for vectors, table and texts")
    parser.add_argument("--texts", type=int, default=1000, help="texts drawn of each file")
    parser.add_argument("--judged", type=Path, help="a table with judgements")
    arguments = parser.parse_args()
    arguments.save.mkdir(parents=True, exist_ok=True)
    rows, texts = [], []
    for given in arguments.files:
        path, _, clusters = given.rpartition(":")
        for row, shown in candidates(Path(path), int(clusters), arguments.texts, arguments.save):
            rows.append(row)
            texts.append(shown)
    if arguments.judged:
        judge(rows, arguments.judged)
    with (arguments.save / "cluster_names.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (arguments.save / "cluster_texts.txt").write_text("\n\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
