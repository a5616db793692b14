from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from embedding_adaptation.process_identity import has_ended, this_process

PROGRAM = "import sys; from embedding_adaptation.process_identity import this_process; print(this_process(), flush=True); sys.stdin.read()"


def test_a_process_is_alive_until_it_has_ended():
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    name = process.stdout.readline()
    assert json.loads(name)["pid"] == process.pid
    assert not has_ended(name)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(name)  # also before anybody has asked for its exit code
    process.communicate()
    assert has_ended(name)


def test_a_number_that_another_process_has_now_is_told_from_it():
    mine = json.loads(this_process())
    assert not has_ended(json.dumps(mine))
    assert has_ended(json.dumps(mine | {"started": mine["started"] - 1}))


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"machine": "another"}, {"namespace": "pid:[1]"}, {"pid": "x"}, {"boot": ""}])
def test_what_cannot_be_known_from_here_has_not_ended(other):
    gone = json.loads(this_process()) | {"pid": 2**22 + 1, "started": 1}
    assert has_ended(json.dumps(gone))
    assert not has_ended(json.dumps(gone | other))


def test_after_a_restart_of_the_machine_nothing_of_before_is_left(monkeypatch, tmp_path):
    import embedding_adaptation.process_identity as module

    (tmp_path / "machine").write_text("the machine\n")
    (tmp_path / "boot").write_text("today\n")
    monkeypatch.setattr(module, "_MACHINE", tmp_path / "machine")
    monkeypatch.setattr(module, "_BOOT", tmp_path / "boot")
    before = this_process()
    assert not has_ended(before)
    (tmp_path / "boot").write_text("tomorrow\n")
    assert has_ended(before)
    (tmp_path / "machine").write_text("")
    assert not has_ended(json.dumps(json.loads(before) | {"machine": ""}))


@pytest.mark.parametrize("text", ["", "no json", "[]", "null", "{}"])
def test_a_run_that_does_not_name_its_process_is_left_alone(text):
    assert not has_ended(text)
