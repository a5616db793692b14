"""Work that is spread over processes comes back in order, with its errors, and leaves no process behind."""

from __future__ import annotations

import os

import psutil
import pytest

from embedding_adaptation.pipelines.clustering_evaluation import processes as module
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.pipelines.clustering_evaluation.processes import spread


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(module, "cpu_count", lambda: 2)


def square(number):
    if number == 7:
        msg = "seven has no square"
        raise EvaluationError(msg)
    return number * number, os.getpid()


def workers():
    # joblib's tracker of resources lives on until this process ends, and holds none.
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "loky" in " ".join(child.cmdline()) and "resource_tracker" not in " ".join(child.cmdline())]


@pytest.mark.usefixtures("two_cores")
def test_results_come_in_order_from_several_processes_and_the_first_from_here():
    results = list(spread(square, range(7), worth=0.0))
    assert [result for result, _ in results] == [number * number for number in range(7)]
    of_processes = [process for _, process in results]
    assert of_processes[:2] == [os.getpid()] * 2
    assert os.getpid() not in of_processes[2:]
    assert not workers()


@pytest.mark.usefixtures("two_cores")
def test_short_work_stays_here():
    assert {process for _, process in spread(square, range(6))} == {os.getpid()}


def test_one_core_shares_nothing(monkeypatch):
    monkeypatch.setattr(module, "cpu_count", lambda: 1)
    assert {process for _, process in spread(square, range(6), worth=0.0)} == {os.getpid()}


@pytest.mark.usefixtures("two_cores")
def test_an_error_is_that_of_the_job_and_ends_the_processes():
    results = spread(square, range(4, 12), worth=0.0)
    assert [next(results)[0], next(results)[0], next(results)[0]] == [16, 25, 36]
    with pytest.raises(EvaluationError, match="seven has no square"):
        next(results)
    assert not workers()


@pytest.mark.usefixtures("two_cores")
def test_a_caller_that_stops_asking_ends_the_processes():
    results = spread(square, range(8, 100), worth=0.0)
    for _ in range(3):
        next(results)
    results.close()
    assert not workers()
