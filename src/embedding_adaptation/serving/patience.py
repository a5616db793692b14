"""Connections that send no whole request in time are closed.

uvicorn closes connections that are idle between two requests, but waits for ever for the first one, and for the rest of one that
has begun; whoever opens many and sends a byte now and then would use up the files that a process may have open.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def patient_protocol(seconds: float) -> type[asyncio.Protocol]:
    """Uvicorn's protocol for HTTP, with so many seconds for a client to send a request, head and body."""

    class PatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # chosen by what is installed
        cycle: Any
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_watching()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Start the clock if a request is still to come, and stop it once one has been received."""
            cycle = self.cycle
            if cycle is not None and not cycle.response_complete and not cycle.more_body:
                self._stop_watching()
            elif self._deadline is None:
                self._deadline = asyncio.get_running_loop().call_later(seconds, self.transport.close)

        def _stop_watching(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return PatientProtocol
