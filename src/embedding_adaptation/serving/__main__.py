"""``python -m embedding_adaptation.serving``; see :mod:`.command`."""

from __future__ import annotations

import sys

from embedding_adaptation.openmp import wait_briefly

wait_briefly()
try:
    from embedding_adaptation.serving.command import main
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in {"fastapi", "starlette", "uvicorn", "prometheus_client"}:
        raise
    sys.exit(f"Serving needs {error.name}, which is not installed: pip install 'embedding-adaptation[serve]' (in the project: make setup)")

if __name__ == "__main__":
    main()
