"""Nodes that give the same results for the same inputs, so that those of an earlier run can stand for them."""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_P = ParamSpec("_P")
_R = TypeVar("_R")
_UNLESS = "repeatable_unless"
# What the next repeatable function of this thread is to return: its name, and the result.
_INSTEAD: ContextVar[tuple[str, Any] | None] = ContextVar("instead", default=None)


def repeatable(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Mark the function of a node whose results depend on nothing but its inputs, this package, and the packages and the machine it uses.

    Files that it is told of only through an option count as inputs if the option's value is their path. What it draws at random has to
    come from a seed among its options. It asks no server: see :func:`repeatable_unless`.
    """
    return _marked(function, _never)


def repeatable_unless(depends_on_more: Callable[..., bool]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Mark the function of a node as :func:`repeatable`, except with some options.

    Args:
        depends_on_more: Takes the function's arguments, and says whether its results then depend on more than its inputs: on what a server
            answers, or on what the Hub has at the moment.
    """
    return lambda function: _marked(function, depends_on_more)


def is_repeatable(function: Callable[..., Any], arguments: Sequence[Any]) -> bool:
    """Whether a function has been marked, and is repeatable with these arguments."""
    depends_on_more = getattr(function, _UNLESS, None)
    return depends_on_more is not None and not depends_on_more(*arguments)


def give_instead(function: Callable[..., Any], result: Any) -> None:
    """Let the next call of a marked function in this thread return a result without computing it.

    Args:
        function: The function. A generator then yields nothing.
        result: What it returns.
    """
    _INSTEAD.set((_name(function), result))


def nothing_instead() -> None:
    """Let the next call of this thread compute, whatever was to be given instead."""
    _INSTEAD.set(None)


def _marked(function: Callable[_P, _R], depends_on_more: Callable[..., bool]) -> Callable[_P, _R]:
    def given() -> tuple[str, Any] | None:
        instead = _INSTEAD.get()
        if instead is None or instead[0] != _name(function):
            return None
        _INSTEAD.set(None)
        return instead

    @functools.wraps(function)
    def given_or_computed(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        instead = given()
        return function(*args, **kwargs) if instead is None else cast("_R", instead[1])

    @functools.wraps(function)
    def given_or_yielded(*args: _P.args, **kwargs: _P.kwargs) -> Iterator[Any]:
        if given() is None:
            yield from cast("Iterator[Any]", function(*args, **kwargs))

    # Kedro saves piece by piece what it finds to be a generator.
    marked = given_or_yielded if inspect.isgeneratorfunction(function) else given_or_computed
    setattr(marked, _UNLESS, depends_on_more)
    return cast("Callable[_P, _R]", marked)


def _never(*_: Any) -> bool:
    return False


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
