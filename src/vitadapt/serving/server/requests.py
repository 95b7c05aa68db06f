"""From the body of a request to images, in whatever way they were sent."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ...classifier.answer import Rules
from .limits import Limits
from .refusal import Refusal, invalid
from .schemas import Encoded, Options

_FIELDS = 8  # of a form, beside its files
_NAME = 100  # letters of a file's name that are repeated in an answer


@dataclass(frozen=True)
class EncodedImage:
    """One image file, as it was sent."""

    name: str
    data: bytes


@dataclass(frozen=True)
class ImageRequest:
    """Images, and how they are to be answered."""

    images: list[EncodedImage]
    rules: Rules


async def parse_request(request: Request, limits: Limits, rules: Rules = Rules()) -> ImageRequest:  # noqa: B008 - frozen
    """Raises Refusal: 415 for another content type, 413 for too many images, 422 for a body that is not what its
    content type says.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    sent = Options()
    try:
        if kind == "multipart/form-data":
            images, sent = await _parse_form(request, limits)
        elif kind == "application/json":
            images, sent = _parse_json(await request.body())
        elif kind.startswith("image/"):
            images = [EncodedImage("image", await request.body())]
        else:
            what = "multipart/form-data with files, application/json with base64, or image/*"
            raise Refusal(415, "wrong_content_type", f"send {what}")
    except ValidationError as error:
        raise invalid(error) from error
    if not images:
        raise Refusal(422, "no_image", "there is no image in this request; send a file, or base64 in 'image'")
    if len(images) > limits.max_images:
        raise _too_many(limits)
    return ImageRequest(images, replace(rules, **sent.model_dump(include=set(Options.model_fields), exclude_none=True)))


def _too_many(limits: Limits) -> Refusal:
    message = f"at most {limits.max_images} images a request are taken; send several requests"
    return Refusal(413, "too_many_images", message)


class _TooManyParts(MultiPartException):
    """A form with more parts than a request may have."""


class _FormParser(MultiPartParser):
    """Starlette's parser, with one limit for all parts. The body is limited before; nothing goes to a disk."""

    spool_max_size = 0  # no file is too large for memory
    parts = 0
    max_parts = 0

    def on_part_begin(self) -> None:
        self.parts += 1
        if self.parts > self.max_parts:
            raise _TooManyParts("too many parts")
        super().on_part_begin()


async def _parse_form(request: Request, limits: Limits) -> tuple[list[EncodedImage], Options]:
    parser = _FormParser(request.headers, _stream(await request.body()))  # type: ignore[arg-type]
    parser.max_parts = limits.max_images + _FIELDS
    parser.max_files = parser.max_fields = parser.max_parts
    try:
        form = await parser.parse()
    except _TooManyParts as error:
        raise _too_many(limits) from error
    except MultiPartException as error:
        raise Refusal(422, "bad_form", "the multipart body is damaged; let a library write it") from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        images = [EncodedImage(_file_name(file.filename, i), await file.read()) for i, file in enumerate(files)]
        return images, Options.model_validate({k: v for k, v in form.items() if not isinstance(v, UploadFile)})
    finally:
        await form.close()


async def _stream(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _parse_json(body: bytes) -> tuple[list[EncodedImage], Options]:
    sent = Encoded.model_validate_json(body)
    texts = ([sent.image] if sent.image is not None else []) + (sent.images or [])
    return [EncodedImage(f"image {number}", _decode(text, number)) for number, text in enumerate(texts, start=1)], sent


def _decode(text: str, number: int) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(422, "bad_base64", f"image {number} is not base64") from error


def _file_name(name: str | None, number: int) -> str:
    """A file name as an answer may repeat it: no folders, only letters that can be printed."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:_NAME] or f"image {number + 1}"
