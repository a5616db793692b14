"""What runs made, compared: everything but what tells of time and place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from faults.chain import CHECKSUM, OUTPUT

# Columns, keys and lines that say how long something took, what was computed for it (again after a kill), when and where it was done.
TIMED = re.compile(
    r"seconds|joules|second|date|time|version|kg_co2|minutes|operations|tokens|source|stamp|path|revision|command|fingerprint",
    re.IGNORECASE,
)
CLOSE = 1e-5


def newest(project: Path) -> dict[str, Path]:
    """The newest version of every dataset that has versions, by its place in the output folder."""
    output = project / OUTPUT
    found: dict[str, Path] = {}
    for place in sorted(output.glob("*/*/*/*")):
        if place.name == place.parents[1].name and not place.name.startswith("."):
            found[place.parents[1].relative_to(output).as_posix()] = place
    return found


def differences(one: Path, other: Path) -> list[str]:
    """How the results of two projects differ; empty where they are the same."""
    mine, theirs = newest(one), newest(other)
    found = [f"{name} is in one of them only" for name in sorted(set(mine) ^ set(theirs))]
    for name in sorted(set(mine) & set(theirs)):
        found += [f"{name}: {difference}" for difference in _compare(mine[name], theirs[name])]
    return found


def _compare(one: Path, other: Path) -> list[str]:
    if one.is_dir():
        files = [{file.relative_to(place) for file in place.rglob("*") if file.is_file()} for place in (one, other)]
        found = [f"{name} is in one of them only" for name in sorted(files[0] ^ files[1])]
        return found + [f"{name}: {what}" for name in sorted(files[0] & files[1]) for what in _compare(one / name, other / name)]
    if one.read_bytes() == other.read_bytes():
        return []
    if one.suffix == ".parquet":
        return _frames(pd.read_parquet(one), pd.read_parquet(other))
    if one.suffix == ".csv":
        return _frames(pd.read_csv(one), pd.read_csv(other))
    if one.suffix == ".safetensors":
        return _tensors(one, other)
    if one.suffix == ".json":
        return _values(json.loads(one.read_text()), json.loads(other.read_text()))
    if one.suffix == ".png":
        return _pictures(one, other)
    if one.suffix in {".md", ".html", ".txt"}:
        return _lines(one.read_text(), other.read_text())
    numbers = [np.frombuffer(path.read_bytes(), np.float32) for path in (one, other)]  # recorded attention
    return [] if numbers[0].shape == numbers[1].shape and np.allclose(*numbers, atol=CLOSE) else ["other bytes"]


def _frames(one: pd.DataFrame, other: pd.DataFrame) -> list[str]:
    kept = [column for column in one.columns if not TIMED.search(str(column))]
    try:
        pd.testing.assert_frame_equal(one[kept], other[[c for c in other.columns if not TIMED.search(str(c))]], atol=CLOSE, rtol=CLOSE)
    except AssertionError as error:
        return [" ".join(str(error).split())[:300]]
    return []


def _tensors(one: Path, other: Path) -> list[str]:
    from safetensors.numpy import load_file

    mine, theirs = load_file(one), load_file(other)
    if mine.keys() != theirs.keys():
        return [f"tensors {sorted(mine.keys() ^ theirs.keys())[:3]}"]
    return [name for name in mine if mine[name].shape != theirs[name].shape or not np.allclose(mine[name], theirs[name], atol=CLOSE)]


def _values(one: Any, other: Any, place: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = {key for key in one.keys() | other.keys() if not TIMED.search(str(key))}
        missing = [f"{place}.{key} is in one of them only" for key in sorted(keys) if (key in one) != (key in other)]
        return missing + [
            what for key in sorted(keys & one.keys() & other.keys()) for what in _values(one[key], other[key], f"{place}.{key}")
        ]
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return [f"{place}: {len(one)} and {len(other)} entries"]
        return [what for number, (a, b) in enumerate(zip(one, other, strict=True)) for what in _values(a, b, f"{place}[{number}]")]
    if isinstance(one, float) and isinstance(other, float):
        return [] if np.isclose(one, other, atol=CLOSE, equal_nan=True) else [f"{place}: {one} and {other}"]
    return [] if one == other else [f"{place}: {str(one)[:80]} and {str(other)[:80]}"]


def _pictures(one: Path, other: Path) -> list[str]:
    from matplotlib.image import imread

    mine, theirs = imread(one), imread(other)
    return [] if mine.shape == theirs.shape and np.abs(mine - theirs).mean() < CLOSE else ["another picture"]


def _lines(one: str, other: str) -> list[str]:
    pairs = list(zip(one.splitlines(), other.splitlines(), strict=False))
    found = [f"{a[:100]!r} and {b[:100]!r}" for a, b in pairs if a != b and not TIMED.search(a)]
    return found + (["another number of lines"] if len(one.splitlines()) != len(other.splitlines()) else [])


def files_of(project: Path, pattern: str) -> list[Path]:
    """Files of a store, without checksums and what is unfinished."""
    return sorted(path for path in (project / OUTPUT).glob(pattern) if path.is_file() and CHECKSUM not in path.name)
