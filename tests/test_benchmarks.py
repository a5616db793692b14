"""The table of benchmarks: what is read from a script, which goals a machine has, and what becomes of a benchmark that fails."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest


@pytest.fixture
def everything(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    import everything as module

    return module


MACHINE = {
    "processor": "Chip",
    "cores": 2,
    "memory_gb": 24.0,
    "device": "cpu",
    "products_against_float32": {"float32": 1.0, "bfloat16": 2.6},
    "load_before": 0.0,
    "python": "3.11",
    "packages": {"torch": "2"},
}


def test_the_figures_are_the_last_line_and_nothing_else(everything):
    assert everything.last_json('a table\n{"ratio": 2.5, "side": null}\n') == {"ratio": 2.5, "side": None}
    assert everything.last_json("a table") is None
    assert everything.last_json("") is None
    assert everything.last_json("3") is None


@pytest.mark.parametrize(("bfloat16", "bounds"), [(2.6, {"at most 300"}), (0.2, {"at most 360"})])
def test_a_goal_is_that_of_the_kind_of_processor(everything, bfloat16, bounds):
    results = {"chain": {"figures": {"seconds_first": 320.0, "seconds_again": None}}}
    rows = everything.goals_of(results, MACHINE | {"products_against_float32": {"float32": 1.0, "bfloat16": bfloat16}})
    first = [row for row in rows if row["figure"] == "seconds_first"]
    assert {row["goal"] for row in first} == bounds
    assert first[0]["verdict"] == ("missed" if bfloat16 > 1 else "met")
    assert [row["verdict"] for row in rows if row["figure"] == "seconds_again"] == ["not measured"]


def test_a_benchmark_that_fails_is_named_and_the_table_is_written(everything, tmp_path, monkeypatch, capsys):
    scripts = {
        "startup": 'import json; print(json.dumps({"registry_s": 1.5, "heavy": "pandas"}))',
        "encode": "raise SystemExit('no texts')",
        "augment": "import time; time.sleep(60)",
        "train": "print('no figures')",
    }
    (tmp_path / "benchmarks").mkdir()
    for name, code in scripts.items():
        (tmp_path / f"benchmarks/{name}.py").write_text(code)
    chosen = [benchmark for benchmark in everything.BENCHMARKS if benchmark.name in scripts]
    for benchmark in chosen:
        object.__setattr__(benchmark, "seconds", 3.0 if benchmark.name == "augment" else 60.0)
    monkeypatch.setattr(everything, "PROJECT", tmp_path)
    monkeypatch.setattr(everything, "machine", lambda: MACHINE)
    monkeypatch.setattr(sys, "argv", ["everything.py", "--only", *scripts, "--save", str(tmp_path / "out")])
    everything.main()
    document = json.loads((tmp_path / "out/benchmarks.json").read_text())
    assert document["results"]["startup"]["figures"]["registry_s"] == 1.5
    assert document["results"]["encode"]["failed"] == "no texts"
    assert document["results"]["augment"]["failed"] == "not finished after 3 s"
    assert document["results"]["train"]["failed"] == "no JSON in its last line"
    page = (tmp_path / "out/benchmarks.md").read_text()
    assert "| startup | `registry_s` | 1.5 | at most 2 | met |" in page
    assert "failed: no texts" in page
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["met"] == 1
    side_by_side = everything.compared([document, document])
    assert "| startup | `registry_s` | 1.5 (at most 2: met) | 1.5 (at most 2: met) |" in side_by_side


def test_every_benchmark_of_the_table_takes_its_arguments(everything, project):
    for benchmark in everything.BENCHMARKS:
        script = (project / benchmark.command[1]).read_text()
        options = [argument for argument in benchmark.arguments if argument.startswith("--")]
        assert [option for option in options if f'add_argument("{option}"' not in script] == [], benchmark.name
        assert [goal.key for goal in benchmark.goals if f'"{goal.key}"' not in script] == [], benchmark.name


def test_the_chain_is_timed_in_a_copy_that_has_nothing_computed(project, tmp_path):
    folder = runpy.run_path(str(project / "benchmarks/chain.py"))["copied"](tmp_path)
    assert {path.name for path in folder.iterdir()} == {"src", "conf", "pyproject.toml", "data"}
    assert [path.name for path in (folder / "data").iterdir()] == ["01_raw"]
    assert (folder / "src/embedding_adaptation/cli.py").is_file()


BENCHMARK_SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("[!_]*.py"))


@pytest.mark.parametrize("script", BENCHMARK_SCRIPTS, ids=[path.stem for path in BENCHMARK_SCRIPTS])
def test_a_benchmark_finds_what_it_imports(script, monkeypatch):
    monkeypatch.syspath_prepend(str(script.parent))
    assert callable(runpy.run_path(str(script))["main"])
