from __future__ import annotations

import os
import subprocess
import sys

import pytest

from embedding_adaptation import openmp


@pytest.mark.parametrize("given", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_threads_wait_briefly_unless_the_user_says_otherwise(given, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    openmp.wait_briefly()
    assert {name: os.environ[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in os.environ} == (
        given or {"GOMP_SPINCOUNT": openmp.TURNS}
    )


@pytest.mark.parametrize("module", ["settings", "serving.__main__"])
def test_kedro_and_the_server_set_it_before_anything_with_openmp_is_loaded(module):
    code = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in {'torch', 'sklearn'}:\n"
        "            assert os.environ.get('GOMP_SPINCOUNT'), name\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"import embedding_adaptation.{module}\n"
        "print(os.environ['GOMP_SPINCOUNT'])"
    )
    environment = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] == [openmp.TURNS], done.stderr
