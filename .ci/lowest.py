"""Write constraints that hold each dependency of pyproject.toml at its lower bound: python .ci/lowest.py pyproject.toml."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

_BOUND = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w.,-]+\])?>=(?P<version>[\w.]+)")


def lowest(project: dict[str, object]) -> list[str]:
    """``NAME==VERSION`` for each dependency, those of extras included.

    Raises:
        ValueError: If a dependency has no lower bound.
    """
    table = project["project"]
    extras = table["optional-dependencies"].values()
    lines = []
    for requirement in [*table["dependencies"], *(one for extra in extras for one in extra)]:
        bound = _BOUND.match(requirement)
        if bound is None:
            msg = f"pyproject.toml: {requirement!r} has no lower bound; write NAME>=VERSION"
            raise ValueError(msg)
        lines.append(f"{bound['name']}=={bound['version']}")
    return sorted(set(lines))  # extras may name the same dependency


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest(tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))) + "\n")
