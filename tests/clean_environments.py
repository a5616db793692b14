"""Virtual environments with other versions of sentence-transformers, without this package, and a process that loads exported folders there.

What does not differ between versions (PyTorch, NumPy and what they need) is shared by links with the environment of the tests, so that an
environment takes seconds and a hundred megabytes; pip resolves the rest, and would refuse versions that do not go together.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Release by release with the transformers, tokenizers and Hub client of its time. 5.3 is the last with modules of the old form inside.
VERSIONS: dict[str, tuple[str, ...]] = {
    "4.1.0": ("transformers==4.51.3", "tokenizers==0.21.4", "huggingface-hub==0.36.2"),
    "5.3.0": ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface-hub==0.36.2"),
    "5.7.0": ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface-hub==0.36.2"),
    "6.0.0": ("transformers==5.20.0", "tokenizers==0.23.1", "huggingface-hub==1.33.0"),
    "6.2.0": ("transformers==5.24.0", "tokenizers==0.23.3", "huggingface-hub==1.33.0"),
}
_SHARED = ("torch", "numpy", "scipy", "scikit-learn", "safetensors", "pyyaml", "regex", "requests", "httpx", "tqdm", "pillow", "typer")
_INSTALL_SECONDS = 300
_LOAD = """
import importlib.util, json, sys, warnings
assert importlib.util.find_spec("embedding_adaptation") is None, "the package is here"
import sentence_transformers, transformers
from sentence_transformers import SentenceTransformer
texts, results = json.loads(sys.argv[1]), {}
for folder in sys.argv[2:]:
    try:
        model = SentenceTransformer(folder, device="cpu")
        vectors = model.encode(texts, batch_size=3)
        alone = model.encode(texts[:1])
        results[folder] = {"vectors": vectors.tolist(), "alone": alone.tolist(), "type": str(vectors.dtype)}
    except Exception as error:
        results[folder] = {"error": f"{type(error).__name__}: {error}"}
versions = {"sentence_transformers": sentence_transformers.__version__, "transformers": transformers.__version__, "prefix": sys.prefix}
print("RESULT" + json.dumps([versions, results]))
"""


def environment(version: str, cache: Path) -> Path:
    """The Python of an environment with that release of sentence-transformers, built once; skips where the index cannot be reached.

    Args:
        version: One of :data:`VERSIONS`.
        cache: Where environments are kept.
    """
    packages = (f"sentence-transformers=={version}", *VERSIONS[version])
    place = cache.absolute() / f"sentence-transformers-{version}"
    python, done = place / "bin" / "python", place / "packages.json"
    shared = _with_requirements(_SHARED)
    wanted = json.dumps([packages, sys.prefix, sys.version, {name: found.version for name, found in shared.items()}])
    if done.is_file() and done.read_text() == wanted:
        return python
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, with_pip=False, symlinks=True)
    (site,) = place.glob("lib/python*/site-packages")
    _link(place / "shared", shared)
    (site / "shared.pth").write_text(f"{place / 'shared'}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    result = subprocess.run(
        [*pip, "install", "--quiet", "--no-compile", *packages], capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS
    )
    if result.returncode:
        shutil.rmtree(place, ignore_errors=True)
        reason = result.stderr.strip().splitlines()[-1:]
        if any(sign in result.stderr for sign in ("No matching distribution", "NewConnectionError", "Connection", "Temporary failure")):
            pytest.skip(f"sentence-transformers {version} could not be installed: {' '.join(reason)}")
        pytest.fail(result.stderr)
    done.write_text(wanted)
    return python


def load_in(python: Path, folders: list[Path], texts: list[str]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Load exported folders in another environment and embed texts there.

    Returns:
        The versions there, and for each folder's name ``vectors`` or the ``error``.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    variables |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    result = subprocess.run(
        [str(python), "-I", "-c", _LOAD, json.dumps(texts), *map(str, folders)],
        capture_output=True, text=True, check=False, env=variables, timeout=600,
    )  # fmt: skip
    assert "RESULT" in result.stdout, result.stderr
    versions, results = json.loads(result.stdout.partition("RESULT")[2])
    assert versions["prefix"] == str(python.parents[1]) != sys.prefix
    return versions, {Path(folder).name: found for folder, found in results.items()}


def _with_requirements(names: tuple[str, ...]) -> dict[str, importlib.metadata.Distribution]:
    """Installed packages and what they need, by name."""
    waiting, found = list(names), {}
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(name)
        for line in found[name].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return dict(sorted(found.items()))


def _link(folder: Path, packages: dict[str, importlib.metadata.Distribution]) -> None:
    folder.mkdir(parents=True)
    for distribution in packages.values():
        root = Path(str(distribution.locate_file("")))
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(root / top)
