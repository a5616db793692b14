from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib

import pytest

import embedding_adaptation
from embedding_adaptation import Embedder, PromptTemplate, Strategy
from embedding_adaptation.embedder import embedder, strategy, template


def test_the_front_door_leads_to_the_classes_themselves():
    assert Embedder is embedder.Embedder
    assert PromptTemplate is template.PromptTemplate
    assert Strategy is strategy.Strategy


def test_a_text_becomes_a_vector_by_the_names_of_the_front_door(tiny_weights):
    topic = Strategy("topic", PromptTemplate("topic", 'The topic of "{text}" is: "'), "last")
    vectors = Embedder.load(tiny_weights, device="cpu", dtype="float32", strategy=topic).encode(["where is my stopcock", "drain blocked"])
    assert vectors.shape[0] == 2


def test_the_version_is_that_of_the_installed_distribution(project):
    assert embedding_adaptation.__version__ == importlib.metadata.version("embedding-adaptation")
    assert embedding_adaptation.__version__ == tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"]


def test_every_public_name_is_listed_and_there():
    assert set(embedding_adaptation.__all__) <= set(dir(embedding_adaptation))
    assert all(getattr(embedding_adaptation, name) is not None for name in embedding_adaptation.__all__)
    with pytest.raises(AttributeError, match=r"module 'embedding_adaptation' has no attribute 'embeder'"):
        embedding_adaptation.embeder  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Encoder'"):
        from embedding_adaptation import Encoder  # noqa: F401


def test_importing_the_package_imports_only_the_standard_library():
    """In a process of its own; ``dir`` looks names up without importing what they stand for."""
    script = """
import sys
before = set(sys.modules)
import embedding_adaptation
dir(embedding_adaptation)
print(*sorted(name for name in set(sys.modules) - before if name.partition(".")[0] not in sys.stdlib_module_names))
"""
    imported = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert imported == ["embedding_adaptation"]
