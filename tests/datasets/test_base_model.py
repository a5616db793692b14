from __future__ import annotations

import os
import shutil

import pytest
from kedro.io import Version
from kedro.io.core import DatasetError

from embedding_adaptation import paths
from embedding_adaptation.checksums import checksum_file
from embedding_adaptation.datasets import base_model as module
from embedding_adaptation.datasets.base_model import BaseModelDataset


def dataset(source, tmp_path, save="2026-01-01T00.00.00.000Z", load=None):
    return BaseModelDataset(source=source, filepath=str(tmp_path / "base_model"), version=Version(load, save))


@pytest.fixture
def folder(tiny_weights, tmp_path):
    target = tmp_path / "source"
    shutil.copytree(tiny_weights.base, target)
    return target


def test_the_first_load_converts_and_later_ones_reuse(folder, tmp_path, monkeypatch):
    first = dataset(str(folder), tmp_path)
    weights = first.load()
    assert weights.adapter is None
    assert weights.base.is_dir()
    assert first.resolve_load_version() == "2026-01-01T00.00.00.000Z"
    monkeypatch.setattr(module, "convert", lambda *args: pytest.fail("converted again"))
    again = dataset(str(folder), tmp_path, save="2026-01-02T00.00.00.000Z").load()
    assert again == weights


def test_a_relative_setting_starts_at_the_projects_root(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(paths._ROOT, str(folder.parent))
    elsewhere = tmp_path / "notebooks" / folder.name  # a folder of the same name, which is another
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere.parent)
    weights = dataset(folder.name, tmp_path).load()
    assert weights.card.source == folder.name  # as it was written: it stays true where the project moves
    monkeypatch.setattr(module, "convert", lambda *args: pytest.fail("converted again"))
    assert dataset(folder.name, tmp_path, save="2026-01-02T00.00.00.000Z").load() == weights


def test_a_changed_source_makes_a_new_version_and_the_old_one_stays(folder, tmp_path):
    old = dataset(str(folder), tmp_path).load()
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    new = dataset(str(folder), tmp_path, save="2026-01-02T00.00.00.000Z").load()
    assert new.base != old.base
    pinned = dataset(str(folder), tmp_path, load="2026-01-01T00.00.00.000Z").load()
    assert pinned.base == old.base


def test_a_hub_model_that_was_resolved_needs_no_network(folder, tmp_path, monkeypatch):
    import dataclasses

    weights = dataset(str(folder), tmp_path).load()
    dataclasses.replace(weights.card, source="team/model@main").write(weights.base)
    checksum_file(weights.base).unlink()  # it is not what was written, and meant to be
    monkeypatch.setattr(module, "check_source", lambda *args, **kwargs: pytest.fail("asked the Hub"))
    assert dataset("team/model@main", tmp_path).load().base == weights.base


def test_what_cannot_be_resolved_fails_the_check_with_the_reason(tmp_path):
    with pytest.raises(DatasetError, match="'nothing' is not installed; run 'make setup'"):
        dataset("package:nothing/model.gguf", tmp_path).check_input()
    assert not (tmp_path / "base_model").exists()


def test_a_folder_that_is_not_there_is_named_beside_the_hub_that_was_asked(tmp_path, monkeypatch):
    monkeypatch.setenv(paths._ROOT, str(tmp_path))
    monkeypatch.setattr(module, "check_source", lambda *args, **options: (_ for _ in ()).throw(module.BaseModelError("the Hub has none")))
    with pytest.raises(DatasetError, match=rf"the Hub has none \(there is no folder {tmp_path}/models/gone either\)"):
        dataset("models/gone", tmp_path).check_input()


def test_an_interrupted_conversion_leaves_no_version(folder, tmp_path, monkeypatch):
    def interrupted(source, target):
        (target / "half").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dataset(str(folder), tmp_path).load()
    monkeypatch.undo()
    assert dataset(str(folder), tmp_path, save="2026-01-02T00.00.00.000Z").load().base.is_dir()


def test_it_cannot_be_saved(tmp_path):
    with pytest.raises(DatasetError):
        dataset("random:tiny-llama", tmp_path).save("something")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "card.json"])
def test_a_damaged_conversion_is_made_again_and_not_used(folder, tmp_path, caplog, name):
    first = dataset(str(folder), tmp_path).load()
    content = bytearray((first.base / name).read_bytes())
    content[content.index(b"sha256") if name == "card.json" else len(content) // 2] ^= 1
    (first.base / name).write_bytes(content)
    second = dataset(str(folder), tmp_path, save="2026-01-02T00.00.00.000Z").load()
    assert second.base != first.base
    assert "is not used and will be converted again" in caplog.text
    assert (second.base / "model.safetensors").read_bytes() != b""


def test_only_the_conversion_that_is_used_is_compared_with_its_checksum(folder, tmp_path, monkeypatch, caplog):
    dataset(str(folder), tmp_path).load()
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    new = dataset(str(folder), tmp_path, save="2026-01-02T00.00.00.000Z").load()
    dataset("random:tiny-llama", tmp_path, save="2026-01-03T00.00.00.000Z").load()
    compared = []
    monkeypatch.setattr(module, "check_intact", compared.append)
    assert dataset(str(folder), tmp_path, save="2026-01-04T00.00.00.000Z").load() == new
    assert compared == [new.base]


def test_the_older_of_two_conversions_is_used_where_the_newer_is_damaged(folder, tmp_path, caplog):
    old = dataset(str(folder), tmp_path).load()
    newer = tmp_path / "base_model" / "2026-01-02T00.00.00.000Z"
    shutil.copytree(old.base.parent, newer)
    (newer / "base_model" / "config.json").write_text("{}")
    assert dataset(str(folder), tmp_path, save="2026-01-03T00.00.00.000Z").load() == old
    assert "is not used" in caplog.text


def test_a_source_is_looked_at_again_where_its_conversion_is_damaged(folder, tmp_path):
    first = dataset(str(folder), tmp_path).load()
    (first.base / "config.json").write_text("{}")
    file = folder / "model.safetensors"
    before = file.stat()
    file.write_bytes(bytes(before.st_size))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # it looks as it did
    with pytest.raises(DatasetError, match=r"model\.safetensors"):
        dataset(str(folder), tmp_path, save="2026-01-02T00.00.00.000Z").check_input()
