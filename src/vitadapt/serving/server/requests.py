"""From the body of a request to pictures, whatever way they came."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from .limits import Limits
from .refusal import Refusal
from .schemas import Encoded, Threshold, Top

_FIELDS = 8
_NAME = 100  # letters of a picture's name that are repeated in an answer


@dataclass(frozen=True)
class Picture:
    """One undecoded image, as it was sent."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Asked:
    """Pictures, and how the answer shall look."""

    pictures: list[Picture]
    top: int
    threshold: float | None


class _InMemory(MultiPartParser):
    """The size of the whole body is limited before it gets here; nothing goes to a disk."""

    spool_max_size = 0  # no limit


async def asked_of(request: Request, limits: Limits, top: int, threshold: float | None) -> Asked:
    """What a request wants. Raises Refusal: 415 for another content type, 413 for too many images, 422 for a body that
    is not what its content type says.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        found = await _of_form(request, limits, top, threshold)
    elif kind == "application/json":
        found = _of_json(await request.body(), top, threshold)
    elif kind.startswith("image/"):
        found = Asked([Picture("image", await request.body())], top, threshold)
    else:
        raise Refusal(
            415, "wrong_content_type", "send multipart/form-data with files, application/json with base64, or image/*"
        )
    if not found.pictures:
        raise Refusal(422, "no_image", "there is no image in this request; send a file, or base64 in 'image'")
    if len(found.pictures) > limits.images:
        raise _too_many(limits)
    return found


def _too_many(limits: Limits) -> Refusal:
    return Refusal(413, "too_many_images", f"at most {limits.images} images a request are taken; send several requests")


async def _of_form(request: Request, limits: Limits, top: int, threshold: float | None) -> Asked:
    body = await request.body()
    parser = _InMemory(request.headers, _once(body), max_files=limits.images + 1, max_fields=_FIELDS)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "files" in error.message:
            raise _too_many(limits) from error
        raise Refusal(422, "bad_form", "the multipart body is damaged; let a library write it") from error
    try:
        return await _of_parts(form, {"top": top, "threshold": threshold})
    finally:
        await form.close()


async def _of_parts(form: FormData, options: dict[str, object]) -> Asked:
    pictures: list[Picture] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            pictures.append(Picture(_shown(value.filename, len(pictures)), await value.read()))
        elif name in options:
            options[name] = value
        else:
            raise Refusal(
                422, "bad_request", f"{name[:100]!r} is no option; the form may have top, threshold and files"
            )
    return Asked(pictures, *_options(options))


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _options(values: dict[str, object]) -> tuple[int, float | None]:
    try:
        return _TOP.validate_python(values["top"]), _THRESHOLD.validate_python(values["threshold"])
    except ValidationError as error:
        raise invalid(error) from error


_TOP: TypeAdapter[int] = TypeAdapter(Top)
_THRESHOLD: TypeAdapter[float | None] = TypeAdapter(Threshold)


def _of_json(body: bytes, top: int, threshold: float | None) -> Asked:
    try:
        wanted = Encoded.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from error
    texts = ([wanted.image] if wanted.image is not None else []) + (wanted.images or [])
    pictures = [Picture(f"image {number}", _decoded(text, number)) for number, text in enumerate(texts, start=1)]
    threshold = threshold if wanted.threshold is None else wanted.threshold
    return Asked(pictures, wanted.top or top, threshold)


def invalid(error: ValidationError) -> Refusal:
    """The first thing that is wrong with a body, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return Refusal(422, "bad_request", f"{place}: {first['msg']}" if place else first["msg"])


def _decoded(text: str, number: int) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(422, "bad_base64", f"image {number} is not base64") from error


def _shown(name: str | None, number: int) -> str:
    """A file name as it can be repeated: no folders, nothing that cannot be printed."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:_NAME] or f"image {number + 1}"
