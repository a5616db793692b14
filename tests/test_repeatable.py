from __future__ import annotations

import inspect
import threading
import typing

import pytest

from embedding_adaptation.repeatable import give_instead, is_repeatable, nothing_instead, repeatable, repeatable_unless

CALLS: list[str] = []


@repeatable
def doubled(number: int) -> int:
    """Twice a number."""
    CALLS.append("doubled")
    return 2 * number


@repeatable
def squared(number: int) -> int:
    CALLS.append("squared")
    return number**2


@pytest.fixture(autouse=True)
def _nothing_left():
    CALLS.clear()
    nothing_instead()


def test_a_repeatable_function_computes_unless_it_is_given_a_result():
    assert doubled(4) == 8
    give_instead(doubled, "given")
    assert squared(3) == 9  # it was not meant
    assert doubled(4) == "given"
    assert doubled(number=4) == 8  # once only
    assert CALLS == ["doubled", "squared", "doubled"]


def test_what_was_to_be_given_can_be_taken_back():
    give_instead(doubled, "given")
    nothing_instead()
    assert doubled(4) == 8


def test_another_thread_is_not_given_anything():
    found = []
    give_instead(doubled, "given")
    thread = threading.Thread(target=lambda: found.append(doubled(4)))
    thread.start()
    thread.join()
    assert found == [8]
    assert doubled(4) == "given"


def test_a_repeatable_function_looks_as_before():
    assert typing.get_type_hints(doubled) == {"number": int, "return": int}
    assert list(inspect.signature(doubled).parameters) == ["number"]
    assert (doubled.__name__, doubled.__doc__) == ("doubled", "Twice a number.")
    assert "CALLS.append" in inspect.getsource(doubled)
    assert is_repeatable(doubled, [1])
    assert not is_repeatable(len, ["a"])


def test_with_some_arguments_a_function_is_not_repeatable():
    @repeatable_unless(lambda first, second: second > first)
    def difference(first: int, second: int) -> int:
        return first - second

    assert is_repeatable(difference, [2, 1])
    assert not is_repeatable(difference, [1, 2])
    assert difference(1, 2) == -1


def test_a_generator_stays_one_and_yields_nothing_in_place_of_what_is_there():
    @repeatable
    def counted(last: int):
        yield from range(last)

    assert is_repeatable(counted, [3])
    assert inspect.isgeneratorfunction(counted)
    assert list(counted(3)) == [0, 1, 2]
    give_instead(counted, None)
    assert list(counted(3)) == []
    assert list(counted(3)) == [0, 1, 2]
