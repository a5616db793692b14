"""The application: OpenAI's and text-embeddings-inference's paths over one model."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from embedding_adaptation.serving.batching import Batcher, Embedded, QueueFullError, StoppedError
from embedding_adaptation.serving.failures import TextTooLongError
from embedding_adaptation.serving.guard import Guard
from embedding_adaptation.serving.metrics import Metrics
from embedding_adaptation.serving.model import ServedModel
from embedding_adaptation.serving.options import ServingOptions
from embedding_adaptation.serving.schemas import PLAIN_ERROR_PATHS, EmbeddingsRequest, EmbedRequest, RequestError
from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1
_PACKAGE = "embedding-adaptation"


def create_app(model: ServedModel, options: ServingOptions | None = None, *, key: str | None = None) -> FastAPI:
    """The application.

    The thread that embeds starts and ends with the application's lifespan; at its end, it finishes what was accepted.

    Args:
        model: The model.
        options: Limits and batching.
        key: The API key that requests must have, except for ``/health`` and ``/metrics``; ``None`` asks for none.
    """
    service = _Service(model, options or ServingOptions())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.stop)

    # Pages of documentation would load scripts from another host.
    app = FastAPI(title=_PACKAGE, version=metadata.version(_PACKAGE), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_api_route("/v1/embeddings", service.embeddings, methods=["POST"])
    app.add_api_route("/v1/models", service.models, methods=["GET"])
    app.add_api_route("/embed", service.embed, methods=["POST"])
    app.add_api_route("/health", service.health, methods=["GET"])
    app.add_api_route("/info", service.info, methods=["GET"])
    app.add_api_route("/metrics", service.metrics_text, methods=["GET"])
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_http_error)
    paths = frozenset(app.openapi()["paths"])
    app.add_middleware(Guard, key=key, max_bytes=service.options.max_bytes, metrics=service.metrics, paths=paths)
    return app


class _Service:
    """What the paths do."""

    def __init__(self, model: ServedModel, options: ServingOptions) -> None:
        self.model, self.options, self.metrics = model, options, Metrics()
        self._created = int(time.time())
        self._batcher: Batcher | None = None
        self.metrics.watch_queue(lambda: 0 if self._batcher is None else self._batcher.waiting)

    def start(self) -> None:
        self._batcher = Batcher(self.model, self.options, self.metrics.count_batch)

    def stop(self) -> None:
        if self._batcher is not None:
            self._batcher.close()

    async def embeddings(self, request: EmbeddingsRequest) -> Response:
        """Embed texts, as OpenAI does."""
        if request.model != self.model.name:
            msg = f"there is no model {request.model[:100]!r}; this server has {self.model.name!r}"
            raise RequestError(404, msg, param="model", code="model_not_found")
        embedded = await self._embedded(request.input, "input", request.dimensions)
        vectors = embedded.vectors if request.dimensions is None else unit_vectors(embedded.vectors[:, : request.dimensions])
        rows: list[Any]
        if request.encoding_format == "base64":
            rows = [base64.b64encode(row.tobytes()).decode() for row in vectors.astype("<f4")]
        else:
            rows = vectors.tolist()
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
        return _json({"object": "list", "data": data, "model": self.model.name, "usage": usage})

    async def models(self) -> Response:
        """List the model, as OpenAI does."""
        about = {"id": self.model.name, "object": "model", "created": self._created, "owned_by": _PACKAGE}
        return _json({"object": "list", "data": [about]})

    async def embed(self, request: EmbedRequest) -> Response:
        """Embed texts, as text-embeddings-inference does."""
        embedded = await self._embedded(request.inputs, "inputs", request.dimensions, truncate=request.truncate)
        vectors = embedded.vectors[:, : request.dimensions]
        return _json((unit_vectors(vectors) if request.normalize else vectors).tolist())

    async def health(self) -> Response:
        """Say whether requests are accepted."""
        if self._batcher is None or not self._batcher.is_running:
            raise RequestError(503, "the server is starting or stopping", retry_after=_RETRY_SECONDS)
        return Response()

    async def info(self) -> Response:
        """Describe model and limits, in text-embeddings-inference's names."""
        embedder, options = self.model.embedder, self.options
        return _json(
            {
                "model_id": self.model.name,
                "model_sha": embedder.identity,
                "model_dtype": embedder.number_format,
                "model_type": {"embedding": {"pooling": embedder.strategy.pooling}},
                "dimensions": self.model.dimensions,
                "max_input_length": self.model.room,
                "max_batch_tokens": options.batch_tokens,
                "max_batch_requests": options.batch_texts,
                "max_client_batch_size": options.max_texts,
                "max_concurrent_requests": options.queue_texts,
                "auto_truncate": False,
                "tokenization_workers": 1,
                "about": self.model.about,
                "version": metadata.version(_PACKAGE),
            }
        )

    async def metrics_text(self) -> Response:
        """All metrics, for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _embedded(self, texts: list[str], param: str, dimensions: int | None, *, truncate: bool = True) -> Embedded:
        """Check a request's limits and embed its texts.

        Raises:
            RequestError: If the request is too large or the server cannot take it.
        """
        options = self.options
        if dimensions is not None and dimensions > self.model.dimensions:
            msg = f"dimensions is {dimensions}, but the model's vectors have {self.model.dimensions}; give at most that"
            raise RequestError(400, msg, param="dimensions", code="invalid_dimensions")
        if len(texts) > options.max_texts:
            msg = f"{param} has {len(texts):,} texts; a request may have {options.max_texts:,}: split it"
            raise RequestError(413, msg, param=param, code="too_many_texts")
        characters = sum(map(len, texts))
        if characters > options.max_characters:
            msg = f"{param} has {characters:,} characters; a request may have {options.max_characters:,}: split it, or shorten the texts"
            raise RequestError(413, msg, param=param, code="too_many_characters")
        if self._batcher is None:
            raise RequestError(503, "the server is starting", retry_after=_RETRY_SECONDS)
        try:
            return await asyncio.wrap_future(self._batcher.submit(texts, truncate=truncate))
        except (QueueFullError, StoppedError) as error:
            raise RequestError(503, str(error), code="overloaded", retry_after=_RETRY_SECONDS) from error
        except TextTooLongError as error:
            raise RequestError(413, str(error), param=param, code="text_too_long") from error
        except Exception as error:  # the batcher has logged it
            msg = f"the model failed ({type(error).__name__}); the server's log says where"
            raise RequestError(500, msg, code="model_failed") from error


def _json(content: Any) -> Response:
    return Response(to_json(content), media_type="application/json")


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """The answer to a body of another form; pydantic's first complaint, without the value, which may be a text."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"][1:]]
    if first["type"] == "json_invalid":
        param, message = None, f"the body is not JSON: {first['ctx']['error']}"
    else:
        param = place[0] if place else None
        message = f"{'.'.join(place) or 'the body'}: {first['msg']}"
    status = 422 if request.url.path in PLAIN_ERROR_PATHS else 400
    refused = RequestError(status, message, param=param, code="invalid_value")
    return refused.response(request.url.path)


async def _http_error(request: Request, error: HTTPException) -> Response:
    """The answer to an unknown path or method."""
    path = request.url.path
    response = RequestError(error.status_code, f"{request.method} {path[:100]}: {error.detail}").response(path)
    response.headers.update(error.headers or {})
    return response
