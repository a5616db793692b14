"""``python -m embedding_adaptation.serving``: load a model and serve it until told to stop."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import uvicorn
from pydantic import ValidationError

from embedding_adaptation.embedder.checkpoint import BaseModelError
from embedding_adaptation.embedder.device import DeviceError
from embedding_adaptation.serving.application import create_app
from embedding_adaptation.serving.model import DEFAULT_MODEL, ModelNotFoundError, ServedModel, locate
from embedding_adaptation.serving.options import ServingOptions
from embedding_adaptation.serving.patience import patient_protocol

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

KEY_VARIABLE = "EMBEDDING_API_KEY"


def _limits(command: Callable[..., None]) -> Callable[..., None]:
    """One option of the command for each field of :class:`ServingOptions`."""
    for name, field in reversed(ServingOptions.model_fields.items()):
        kind = float if isinstance(field.default, float) else int
        option = click.option(
            f"--{name.replace('_', '-')}", name, type=kind, default=field.default, show_default=True, help=field.description
        )
        command = option(command)
    return command


@click.command()
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="A folder, or models:/NAME@ALIAS or models:/NAME/VERSION.")
@click.option("--name", help="The name that clients call the model by; otherwise that of the folder or in the registry.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=5001, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True, help="Device to run on.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="Number format; auto takes the fastest; float32 gives sentence-transformers' own vectors.",
)
@click.option("--stop-seconds", type=click.IntRange(min=1), default=30, show_default=True, help="Time for accepted requests after SIGTERM.")
@_limits
def main(model: str, name: str | None, host: str, port: int, device: Any, dtype: Any, stop_seconds: int, **limits: Any) -> None:
    """Serve an exported model over HTTP, with OpenAI's interface (/v1/embeddings) and text-embeddings-inference's (/embed).

    If the environment variable EMBEDDING_API_KEY is set, requests must have it in the header: Authorization: Bearer KEY.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn replaces it while it serves, and calls it at the end
    key = os.environ.get(KEY_VARIABLE)
    if key is not None and not key.strip():
        msg = f"{KEY_VARIABLE} is set, but empty; give it a value, or unset it to serve without a key"
        raise click.ClickException(msg)
    try:
        options = ServingOptions(**limits)
        located = locate(model, Path.cwd())
        served = ServedModel.load(located, device=device, dtype=dtype)
    except ValidationError as error:
        problem = error.errors()[0]
        option = f"--{str(problem['loc'][0]).replace('_', '-')}"
        msg = f"{option} is {problem['input']}: {problem['msg']}"
        raise click.ClickException(msg) from error
    except (ModelNotFoundError, BaseModelError, DeviceError) as error:
        raise click.ClickException(str(error)) from error
    served.name = name or served.name
    logger.warning("%s", served.about)
    if key is None and not _is_local(host):
        logger.warning("Anybody who reaches %s can use this server: set %s, or listen on 127.0.0.1", host, KEY_VARIABLE)
    app = create_app(served, options, key=key.strip() if key else None)
    logger.info("Serving %s, %d dimensions, at most %d tokens a text", served.name, served.dimensions, served.room)
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=patient_protocol(options.request_seconds),
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=stop_seconds,
    )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
