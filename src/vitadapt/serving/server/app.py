"""The routes, and what becomes of every error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from ... import __version__
from ...methods.spec import method_text
from ...nn.head_spec import head_text
from ...utils.errors import VitadaptError
from .middleware import App, Door, Gate
from .model_repository import Version
from .refusal import Refusal, body_of, no_model, public, refusal_of
from .requests import asked_of
from .schemas import About, Encoded, Error, Health, Heat, Models, Predicted, Removed, Threshold, Top
from .service import Service, version_text

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": text}
    for status, text in {
        401: "The token is missing or wrong.",
        404: "No such model.",
        413: "Too many bytes, pixels or images.",
        415: "A content type that is not taken.",
        422: "Not an image, or an impossible option.",
        503: "Too much to do; Retry-After says when to come again.",
    }.items()
}
_FIXED: dict[int | str, dict[str, Any]] = {
    403: {"model": Error, "description": "The server has no token, and its models cannot be changed."},
    409: {"model": Error, "description": "A folder, the only model, or one model too many."},
}
_ASSETS = {
    "page.css": ("vitadapt.report", "page/page.css", "text/css"),
    "common.js": ("vitadapt.report", "page/common.js", "text/javascript"),
    "server.css": ("vitadapt.serving.server", "page/server.css", "text/css"),
    "server.js": ("vitadapt.serving.server", "page/server.js", "text/javascript"),
}


def _images_body(several: bool) -> dict[str, Any]:
    """The three ways in which images can be sent, for the description."""
    encoded = Encoded.model_json_schema()
    form = {"file": _FILES if several else _BINARY["schema"]}
    content = {
        "multipart/form-data": {"schema": {"type": "object", "properties": form, "required": ["file"]}},
        "application/json": {"schema": encoded},
        "image/*": _BINARY,
    }
    return {"requestBody": {"required": True, "content": content}}


def make_app(service: Service, door: Door) -> App:
    """The application behind its gate."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="vitadapt",
        version=__version__,
        description="Adapted vision transformers: many adapters on one backbone.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_page(app)
    _add_health(app, service)
    _add_models(app, service, bool(door.token))
    _add_answers(app, service)
    _add_errors(app, service)
    if door.token:
        _describe_token(app)
    return Gate(app, service.limits, door, service.metrics)


def _add_page(app: FastAPI) -> None:
    page = resources.files("vitadapt.serving.server").joinpath("page/index.html").read_bytes()
    files = {
        name: (resources.files(package).joinpath(path).read_bytes(), kind)
        for name, (package, path, kind) in _ASSETS.items()
    }

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page, media_type="text/html")

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        data, kind = files[name]
        return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"], operation_id="healthz")
    async def healthz() -> Health:
        """The process answers."""
        return Health(status="alive")

    @app.get("/readyz", tags=["health"], operation_id="readyz", responses={503: {"model": Error}})
    async def readyz() -> Health:
        """Models can be asked."""
        if not service.ready:
            raise Refusal(503, "not_ready", "the server is starting or ending")
        return Health(status="ready")

    @app.get("/metrics", tags=["health"], operation_id="metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_models(app: FastAPI, service: Service, changeable: bool) -> None:
    shelf = service.shelf

    @app.get("/v1/models", tags=["models"], operation_id="list_models")
    async def list_models() -> Models:
        """What is served, and what lies in the folder and cannot be."""
        return Models(models=[_about(one) for one in shelf.models.values()], problems=shelf.problems)

    @app.get("/v1/models/{model}", tags=["models"], operation_id="get_model", responses={404: {"model": Error}})
    async def get_model(model: str) -> About:
        """One model."""
        with shelf.lease(model) as version:
            return _about(version)

    async def require_changeable() -> None:
        if not changeable:
            raise Refusal(403, "no_changes", "models can be changed over HTTP only on a server that has a --token")

    body = {"requestBody": {"required": True, "content": {"application/octet-stream": _BINARY}}}

    @app.post(
        "/v1/models/{model}",
        tags=["models"],
        operation_id="put_model",
        responses={201: {"model": About, "description": "A new name."}, **_REFUSALS, **_FIXED},
        openapi_extra=body,
    )
    async def put_model(model: str, request: Request) -> JSONResponse:
        """Serve the adapter file in the body under this name, and keep it in the folder; an older one is replaced."""
        await require_changeable()
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/octet-stream":
            raise Refusal(415, "wrong_content_type", "send the adapter file as application/octet-stream")
        version, new = await service.upload(model, await request.body())
        return JSONResponse(_about(version).model_dump(), 201 if new else 200)

    @app.delete("/v1/models/{model}", tags=["models"], operation_id="delete_model", responses=_REFUSALS | _FIXED)
    async def delete_model(model: str) -> Removed:
        """Stop serving the model and delete its file."""
        await require_changeable()
        await service.remove(model)
        return Removed(removed=model)


def _about(version: Version) -> About:
    info = version.info
    return About(
        name=version.name,
        version=version_text(version),
        classes=list(info.classes),
        backbone=public(info.backbone),
        image_size=info.image_size,
        method=method_text(info.method),
        head=head_text(info.head),
        bytes=version.size,
        licence=info.licence,
        base_licence=info.base_licence,
    )


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/{model}/predict",
        tags=["answers"],
        operation_id="predict",
        responses=_REFUSALS,
        openapi_extra=_images_body(several=True),
    )
    async def predict(
        model: str, request: Request, top: Annotated[Top, Query()] = 5, threshold: Annotated[Threshold, Query()] = None
    ) -> Predicted:
        """The class of every image, with probabilities: the same as `vitadapt predict`."""
        _require_model(service, model)
        asked = await asked_of(request, service.limits, top, threshold)
        return Predicted.model_validate(await service.predict(model, asked))

    @app.post(
        "/v1/{model}/explain",
        tags=["answers"],
        operation_id="explain",
        responses={200: {"model": Heat, "content": {"image/png": _BINARY}}, **_REFUSALS},
        openapi_extra=_images_body(several=False),
    )
    async def explain(
        model: str,
        request: Request,
        kind: Literal["gradient", "input", "rollout"] = "gradient",
        wanted: Annotated[str | None, Query(alias="class", description="The class to explain.")] = None,
        picture: Annotated[Literal["both", "overlay"], Query(description="What the PNG shows.")] = "both",
    ) -> Response:
        """Where the model looks: a PNG, or numbers for `Accept: application/json`."""
        _require_model(service, model)
        asked = await asked_of(request, service.limits, 1, None)
        if len(asked.pictures) > 1:
            raise Refusal(413, "too_many_images", "one image is explained at a time")
        plain = "application/json" in request.headers.get("accept", "")
        version, found, heat, png = await service.explain(
            model, asked.pictures[0], kind, wanted, None if plain else picture
        )
        if png is not None:
            return Response(png, media_type="image/png", headers={"X-Version": version_text(version)})
        about = Heat(model=model, version=version_text(version), heat=heat.tolist(), **vars(found))
        return JSONResponse(about.model_dump())


def _require_model(service: Service, name: str) -> None:
    """Before the body is looked at. Raises UnknownModel."""
    if name not in service.shelf.models:
        raise no_model(name, service.shelf.models)


def _add_errors(app: FastAPI, service: Service) -> None:
    def told(refusal: Refusal) -> JSONResponse:
        service.metrics.refused.labels(refusal.code).inc()
        return JSONResponse(body_of(refusal.code, refusal.message), refusal.status, refusal.headers)

    def handler(kind: type[Exception], refusal: Callable[[Any], Refusal]) -> None:
        @app.exception_handler(kind)
        async def handle(_: Request, error: Exception) -> JSONResponse:
            return told(refusal(error))

    handler(Refusal, lambda refusal: refusal)
    handler(VitadaptError, refusal_of)
    handler(RequestValidationError, _of_validation)
    handler(HTTPException, _of_http)
    handler(Exception, lambda _: Refusal(500, "internal", "this should not have happened; the server's log says more"))


def _of_validation(error: RequestValidationError | ValidationError) -> Refusal:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("query", "path"))
    return Refusal(422, "bad_request", f"{place}: {first['msg']}")


def _of_http(error: HTTPException) -> Refusal:
    said = {404: ("not_found", "there is nothing here; see openapi.json"), 405: ("wrong_method", "not this way")}
    code, message = said.get(error.status_code, ("refused", str(error.detail)))
    return Refusal(error.status_code, code, message, dict(error.headers or {}))


def _describe_token(app: FastAPI) -> None:
    """The description says that a token is wanted; clients made of it then ask for one."""
    made = app.openapi()
    made.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in made["paths"].items():
        for operation in operations.values():
            if path.startswith("/v1/") or path == "/metrics":
                operation["security"] = [{"token": []}]
