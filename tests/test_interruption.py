"""Real processes that get real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAD = """
import os, signal, subprocess, sys, time
from pathlib import Path
import embedding_adaptation.interruption as interruption
from embedding_adaptation.interruption import OrderlyEnd, held_signals
interruption.GRACE = 0.5
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever started the tests may ignore them, and that is inherited
    signal.signal(signum, signal.SIG_DFL)

def close(name):
    print("closed", name, flush=True)

def ready():
    print("ready", flush=True)
"""


def start(body: str) -> subprocess.Popen[str]:
    """A program that has printed that it is ready."""
    process = subprocess.Popen([sys.executable, "-c", HEAD + body], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_unwinds_the_work_then_closes_and_exits_with_its_number(signum, code):
    process = start(
        """
with OrderlyEnd(close):
    try:
        ready()
        time.sleep(60)
    finally:
        print("unwound", flush=True)
"""
    )
    process.send_signal(signum)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, f"unwound\nclosed {signum.name}\n"), err
    assert err == ""


def test_a_long_call_into_a_library_does_not_hold_the_end_up():
    process = start(
        """
import hashlib
with OrderlyEnd(close):
    ready()
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 1_000_000_000)  # minutes in C, like a clustering of many texts
    print("never", flush=True)
"""
    )
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (143, "closed SIGTERM\n")
    assert time.monotonic() - began < 10


def test_an_error_of_its_own_and_a_quiet_end_close_nothing():
    process = start(
        """
ready()
for error in (None, ValueError("mine")):
    try:
        with OrderlyEnd(close):
            if error: raise error
    except ValueError as raised:
        print(raised, flush=True)
print([signal.getsignal(signum) == signal.SIG_DFL for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)])
"""
    )
    assert process.communicate(timeout=20)[0] == "mine\n[True, True, True]\n"


def test_a_second_signal_does_not_cut_the_closing_short():
    process = start(
        """
def slowly(name):
    print("closing", flush=True)
    time.sleep(0.4)
    print("closed", name, flush=True)
with OrderlyEnd(slowly):
    ready()
    time.sleep(60)
"""
    )
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "closing\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "closed SIGINT\n"
    assert process.returncode == 130


def test_what_must_not_be_done_by_halves_is_finished_first():
    process = start(
        """
with OrderlyEnd(close):
    with held_signals(), held_signals():
        ready()
        until = time.monotonic() + 0.3
        while time.monotonic() < until: pass
        print("finished", flush=True)
    print("never", flush=True)
"""
    )
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "finished\nclosed SIGTERM\n"


def test_what_is_ignored_stays_ignored():
    process = start(
        """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
with OrderlyEnd(close):
    ready()
    time.sleep(0.5)
print("end")
"""
    )
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=20)[0], process.returncode) == ("end\n", 0)


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.slow
def test_children_and_theirs_end_too_also_those_that_do_not_listen(tmp_path):
    deaf = "import signal, time, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    grandchild = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    process = start(
        f"""
child = subprocess.Popen([sys.executable, "-c", {deaf + grandchild!r} + "print(1, flush=True); time.sleep(60)"], stdout=subprocess.PIPE)
child.stdout.readline()
import psutil
print(*[found.pid for found in psutil.Process().children(recursive=True)], file=open({str(tmp_path / "pids")!r}, "w"), flush=True)
with OrderlyEnd(close):
    ready()
    child.wait()
"""
    )
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert all(map(is_alive, pids))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    deadline = time.monotonic() + 5
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked on POSIX only")
def test_a_signal_to_a_forked_worker_does_not_end_its_parent():
    process = start(
        """
import multiprocessing
with OrderlyEnd(close):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    ready()
    worker.terminate()
    worker.join()
    time.sleep(0.3)
    print(worker.exitcode, flush=True)
"""
    )
    assert process.communicate(timeout=20)[0] == "-15\n"
    assert process.returncode == 0
