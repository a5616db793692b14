"""Bodies of requests and answers, and the forms of errors, as OpenAI and text-embeddings-inference define them.

References:
    https://platform.openai.com/docs/api-reference/embeddings
    https://huggingface.github.io/text-embeddings-inference
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.responses import JSONResponse

# Paths with text-embeddings-inference's form of errors; all others have OpenAI's.
PLAIN_ERROR_PATHS = frozenset({"/embed", "/info", "/health", "/metrics"})
_HALF = re.compile("[\ud800-\udfff]")
_OPENAI_TYPES = {401: "invalid_request_error", 500: "server_error", 503: "server_error"}
_PLAIN_TYPES = {401: "Unauthorized", 404: "NotFound", 500: "Backend", 503: "Overloaded"}


def _texts(value: Any) -> Any:
    """A string or a list of strings as a list.

    Raises:
        PydanticCustomError: If it is neither; the message contains no text.
    """
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list):
        kind = "missing (null)" if value is None else _json_name(value)
        raise PydanticCustomError("not_texts", "it is {kind}; give a string or a list of strings", {"kind": kind})
    if not values:
        raise PydanticCustomError("no_texts", "it is an empty list; give at least one text")
    for index, text in enumerate(values):
        if isinstance(text, str):
            if _HALF.search(text):
                raise PydanticCustomError("no_text", "item {index} holds half a surrogate pair, which is no text", {"index": index})
            continue
        if isinstance(text, int | list) and not isinstance(text, bool):
            raise PydanticCustomError(
                "token_ids",
                "it holds token ids, which another model's tokenizer may have made; give strings "
                "(in LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))",
            )
        kind = "missing (null)" if text is None else _json_name(text)
        raise PydanticCustomError(
            "not_a_text", "item {index} is {kind}; give a string or a list of strings", {"index": index, "kind": kind}
        )
    return values


def _json_name(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", dict: "an object"}
    return names[type(value)]


Texts = Annotated[
    list[str],
    BeforeValidator(_texts),
    Field(json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class EmbeddingsRequest(BaseModel):
    """Body of ``POST /v1/embeddings``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Texts
    model: str = Field(min_length=1)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


class EmbedRequest(BaseModel):
    """Body of ``POST /embed``; names that only other models need are accepted if they ask for nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: Texts
    normalize: bool = True
    truncate: bool = False
    truncation_direction: Literal["Right", "right"] | None = None
    prompt_name: None = None
    dimensions: int | None = Field(None, ge=1)


class RequestError(Exception):
    """A request that cannot be answered, with its status.

    Args:
        status: HTTP status.
        message: What is wrong and what to do.
        param: The field at fault.
        code: OpenAI's code.
        retry_after: Seconds after which to try again.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def response(self, path: str) -> JSONResponse:
        """The answer in the form that clients of a path expect."""
        body: dict[str, Any]
        if path in PLAIN_ERROR_PATHS:
            body = {"error": self.message, "error_type": _PLAIN_TYPES.get(self.status, "Validation")}
        else:
            kind = _OPENAI_TYPES.get(self.status, "invalid_request_error")
            body = {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(body, self.status, headers)
