from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from kedro.io import Version

from embedding_adaptation.datasets.exported_embedder import ExportedEmbedder, ExportedEmbedderDataset
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.export import ExportError
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.runtime import build_strategy

TEXTS = ["the bus is late", "ends with a full stop.", '" means in one word: "', "water " * 90, "🎉 مرحبا"]
ALONE = """
import importlib.util, json, sys
assert importlib.util.find_spec("embedding_adaptation") is None, "the package is here"
try:
    import embedding_adaptation
except ModuleNotFoundError:
    pass
else:
    sys.exit("the package was imported")
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
print("RESULT" + json.dumps([sys.prefix, model.encode(json.loads(sys.argv[2]), batch_size=2).tolist()]))
"""


def our_vectors(weights, embedder_options, texts=TEXTS):
    embedder = Embedder.load(weights, device="cpu", dtype="float32", max_length=64)
    return embedder.encode(texts, build_strategy("prompted_last_adapted", embedder_options()), progress=False)


def test_the_loaded_model_gives_the_adapted_vectors(exported, tiny_adapted, embedder_options):
    model = ExportedEmbedderDataset(filepath=str(exported.parents[1]), version=Version(None, None)).load()
    np.testing.assert_allclose(model.encode(TEXTS), our_vectors(tiny_adapted, embedder_options), atol=1e-5)


def test_the_folder_is_plain_readable_by_all_and_says_nothing_of_this_machine(exported, tmp_path):
    files = [path for path in exported.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files)
    texts = {path.name: path.read_text() for path in files if path.suffix != ".safetensors"}
    assert not [name for name, text in texts.items() if str(tmp_path) in text or str(Path.home()) in text or "embedding_adaptation" in text]
    assert not [name for name, text in texts.items() if "secret" in text or "hidden text" in text]
    assert json.loads(texts["model_facts.json"])["dimensions"] == 32


def test_what_cannot_be_exported_leaves_no_version_behind(tiny_embedder, tmp_path):
    dataset = ExportedEmbedderDataset(filepath=str(tmp_path / "model"), version=Version(None, "1"))
    value = ExportedEmbedder(tiny_embedder, Strategy("a", tiny_embedder.strategy.template, "text_mean"), "card", {})
    with pytest.raises(Exception, match="pooling text_mean") as caught:
        dataset.save(value)
    assert isinstance(caught.value.__cause__, ExportError)
    assert not dataset.exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def example(card: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return block


def test_the_cards_example_runs_as_it_stands(exported, monkeypatch):
    monkeypatch.chdir(exported.parent)
    names: dict[str, object] = {}
    exec(example((exported / "README.md").read_text()), names)
    assert names["vectors"].shape == (3, 32)
    np.testing.assert_allclose(np.diag(names["similarities"]), 1.0, atol=1e-5)


@pytest.mark.slow
def test_an_environment_without_this_package_loads_the_folder_from_elsewhere(exported, tiny_adapted, embedder_options, tmp_path):
    """A virtual environment that sees the installed libraries and, as .pth files of theirs are not followed, not this package."""
    import sentence_transformers

    place = tmp_path / "clean"
    venv.create(place, with_pip=False, symlinks=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(str(Path(sentence_transformers.__file__).parents[1]) + "\n")
    moved = shutil.move(exported, tmp_path / "elsewhere")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        [place / "bin" / "python", "-I", "-c", ALONE, moved, json.dumps(TEXTS)],
        capture_output=True, text=True, check=False, cwd=place, env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    prefix, vectors = json.loads(result.stdout.partition("RESULT")[2])
    assert prefix == str(place) != sys.prefix
    np.testing.assert_allclose(vectors, our_vectors(tiny_adapted, embedder_options), atol=1e-5)
