from __future__ import annotations

import json

import pytest
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.task_mirror import MANIFEST, MirrorError, TaskMirror, TaskMirrorDataset, content_hash

REVISION, OTHER = "a" * 40, "b" * 40
CARD = """---
configs:
- config_name: en
  data_files:
  - split: test
    path: data/en-*.jsonl
- config_name: de
  data_files: [{split: test, path: data/de.jsonl}]
---
"""


def write(folder, **files):
    for name, text in ({"test.jsonl": "{}"} | files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_both_layouts_of_the_hub_are_found(tmp_path):
    write(tmp_path / "team" / "plain")
    write(tmp_path / "datasets--team--cached" / "snapshots" / REVISION)
    mirror = TaskMirror(tmp_path)
    plain, cached = mirror.fetch("team/plain", REVISION), mirror.fetch("team/cached", REVISION)
    assert plain.folder == tmp_path / "team" / "plain"
    assert cached.folder.name == cached.revision == REVISION
    assert plain.sha256 == cached.sha256
    assert plain.origin == "mirror"


def test_the_hash_knows_names_and_contents_but_nothing_that_git_keeps(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two", **{".gitattributes": "x", ".cache/x": "y"})
    assert content_hash(one) == content_hash(two)
    write(two, **{"test.jsonl": "{} "})
    assert content_hash(one) != content_hash(two)
    renamed = tmp_path / "three"
    write(renamed)
    (renamed / "test.jsonl").rename(renamed / "train.jsonl")
    assert content_hash(one) != content_hash(renamed)


def test_the_hash_of_a_language_leaves_out_the_others(tmp_path):
    folder = write(tmp_path / "x", **{"README.md": CARD, "data/en-1.jsonl": "1", "data/de.jsonl": "2"})
    before = content_hash(folder, ["en"]), content_hash(folder, ["de"]), content_hash(folder)
    write(folder, **{"data/de.jsonl": "3"})
    after = content_hash(folder, ["en"]), content_hash(folder, ["de"]), content_hash(folder)
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert after[2] != before[2]
    assert content_hash(folder, ["fr"]) == content_hash(folder)  # the card does not tell


def test_what_the_record_says_is_checked(tmp_path):
    folder = write(tmp_path / "team" / "x")
    mirror = TaskMirror(tmp_path)
    mirror.record("team/x", REVISION)
    assert mirror.fetch("team/x", REVISION).sha256 == json.loads((tmp_path / MANIFEST).read_text())[f"team/x@{REVISION}"]["all"]
    with pytest.raises(MirrorError, match=f"has team/x at revision {REVISION}, but the task needs {OTHER}"):
        mirror.fetch("team/x", OTHER)
    write(folder, **{"test.jsonl": "changed"})
    with pytest.raises(MirrorError, match=r"has the content hash .*, but mirror.json says .*copy them again"):
        mirror.fetch("team/x", REVISION)


def test_what_is_not_there_is_named(tmp_path):
    write(tmp_path / "datasets--team--x" / "snapshots" / OTHER)
    mirror = TaskMirror(tmp_path)
    with pytest.raises(
        MirrorError, match=rf"does not contain team/x at revision {REVISION} \(only revision {OTHER}\); copy the Hub's folder"
    ):
        mirror.fetch("team/x", REVISION)
    (tmp_path / MANIFEST).write_text("{")
    write(tmp_path / "team" / "y")
    with pytest.raises(MirrorError, match=r"mirror.json cannot be read .*recreate it"):
        mirror.fetch("team/y", REVISION)
    for call in (TaskMirror().record, TaskMirror().download):
        with pytest.raises(MirrorError, match="no mirror folder was given"):
            call("team/x", REVISION)


def test_without_a_network_the_hub_is_explained():
    with pytest.raises(MirrorError, match=r"cannot download the data set team/x .*--params mirror=FOLDER"):
        TaskMirror().fetch("team/x", REVISION, ["en"])


def test_the_dataset_is_an_input_that_looks_at_its_folder(tmp_path):
    hub = TaskMirrorDataset()
    assert hub.load().folder is None
    assert hub.exists()
    mirror = TaskMirrorDataset(filepath=str(tmp_path), metadata={"a": 1})
    assert mirror.load().folder == tmp_path
    assert mirror.metadata == {"a": 1}
    missing = TaskMirrorDataset(filepath=str(tmp_path / "none"))
    assert not missing.exists()
    with pytest.raises(DatasetError, match="is not a folder; correct the setting mirror"):
        missing.check_input()
    with pytest.raises(DatasetError, match="never written"):
        mirror.save("x")
