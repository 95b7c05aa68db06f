"""The routes, and the answer to every error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from ... import __version__
from ...classifier.answer import Rules
from ...classifier.novelty import RATE
from ...methods.spec import method_text
from ...nn.head_spec import head_text
from ...utils.errors import VitadaptError
from .middleware import AccessPolicy, App, Middleware
from .model_repository import ModelVersion
from .refusal import Refusal, error_body, invalid, public, refusal_of, unknown_model
from .requests import parse_request
from .schemas import About, Conformal, Encoded, Error, Health, Heat, Models, Predicted, Refuse, Removed, Threshold, Top
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


def make_app(service: Service, access: AccessPolicy) -> App:
    """The application behind its limits."""

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
    # the description says that a token is wanted; `AccessPolicy` checks it, before a body is read
    token = [Security(HTTPBearer(scheme_name="token", auto_error=False))] if access.token else []
    _add_page(app)
    app.include_router(_health_routes(service, token))
    app.include_router(_model_routes(service, token))
    app.include_router(_answer_routes(service, token))
    _add_errors(app, service)
    return Middleware(app, service.limits, access, service.metrics)


def _add_page(app: FastAPI) -> None:
    page = resources.files("vitadapt.serving.server").joinpath("page/index.html").read_bytes()
    folders: Any = [("vitadapt.report", "page"), ("vitadapt.serving.server", "page")]
    app.mount("/assets", StaticFiles(packages=folders))

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page, media_type="text/html")


def _health_routes(service: Service, token: list[Any]) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz", operation_id="healthz")
    async def healthz() -> Health:
        """The process answers."""
        return Health(status="alive")

    @routes.get("/readyz", operation_id="readyz", responses={503: {"model": Error}})
    async def readyz() -> Health:
        """Models can be asked."""
        if not service.ready:
            raise Refusal(503, "not_ready", "the server is starting or ending")
        return Health(status="ready")

    @routes.get("/metrics", operation_id="metrics", response_class=Response, dependencies=token)
    async def metrics() -> Response:
        """Counts in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes


def _model_routes(service: Service, token: list[Any]) -> APIRouter:
    routes, repository = APIRouter(prefix="/v1/models", tags=["models"], dependencies=token), service.repository

    async def require_changeable() -> None:
        if not token:
            raise Refusal(403, "no_changes", "models can be changed over HTTP only on a server that has a --token")

    @routes.get("", operation_id="list_models")
    async def list_models() -> Models:
        """What is served, and which files of the folder cannot be."""
        return Models(models=[_about(version) for version in repository.models.values()], problems=repository.problems)

    @routes.get("/{model}", operation_id="get_model", responses={404: {"model": Error}})
    async def get_model(model: str) -> About:
        """One model."""
        with repository.lease(model) as version:
            return _about(version)

    @routes.post(
        "/{model}",
        operation_id="put_model",
        responses={201: {"model": About, "description": "A new name."}, **_REFUSALS, **_FIXED},
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": _BINARY}}},
        dependencies=[Depends(require_changeable)],
    )
    async def put_model(model: str, request: Request) -> JSONResponse:
        """Serve the adapter file in the body under this name, and keep it in the folder; an older one is replaced."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/octet-stream":
            raise Refusal(415, "wrong_content_type", "send the adapter file as application/octet-stream")
        version, new = await service.upload(model, await request.body())
        return JSONResponse(_about(version).model_dump(), 201 if new else 200)

    @routes.delete(
        "/{model}",
        operation_id="delete_model",
        responses=_REFUSALS | _FIXED,
        dependencies=[Depends(require_changeable)],
    )
    async def delete_model(model: str) -> Removed:
        """Stop serving the model and delete its file."""
        await service.remove(model)
        return Removed(removed=model)

    return routes


def _about(version: ModelVersion) -> About:
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


def _images_body(several: bool) -> dict[str, Any]:
    """The three ways in which images can be sent, for the description."""
    form = {"file": _FILES if several else _BINARY["schema"]}
    content = {
        "multipart/form-data": {"schema": {"type": "object", "properties": form, "required": ["file"]}},
        "application/json": {"schema": Encoded.model_json_schema()},
        "image/*": _BINARY,
    }
    return {"requestBody": {"required": True, "content": content}}


def _answer_routes(service: Service, token: list[Any]) -> APIRouter:
    async def require_model(model: str) -> None:
        if model not in service.repository.models:
            raise unknown_model(model, service.repository.models)

    routes = APIRouter(prefix="/v1/{model}", tags=["answers"], dependencies=[*token, Depends(require_model)])

    @routes.post(
        "/predict",
        operation_id="predict",
        responses=_REFUSALS,
        openapi_extra=_images_body(several=True),
    )
    async def predict(
        model: str,
        request: Request,
        top: Annotated[Top, Query()] = 5,
        threshold: Annotated[Threshold, Query()] = None,
        refuse: Annotated[Refuse, Query()] = RATE,
        conformal: Annotated[Conformal, Query()] = None,
    ) -> Predicted:
        """The class of every image, with probabilities: the same as `vitadapt predict`."""
        rules = Rules(top, threshold, RATE if refuse is None else refuse, conformal)
        parsed = await parse_request(request, service.limits, rules)
        return Predicted.model_validate(await service.predict(model, parsed))

    @routes.post(
        "/explain",
        operation_id="explain",
        responses={200: {"model": Heat, "content": {"image/png": _BINARY}}, **_REFUSALS},
        openapi_extra=_images_body(several=False),
    )
    async def explain(
        model: str,
        request: Request,
        kind: Literal["gradient", "input", "rollout"] = "gradient",
        class_name: Annotated[str | None, Query(alias="class", description="The class to explain.")] = None,
        picture: Annotated[Literal["both", "overlay"], Query(description="What the PNG shows.")] = "both",
    ) -> Response:
        """Where the model looks: a PNG, or numbers for `Accept: application/json`."""
        images = (await parse_request(request, service.limits)).images
        if len(images) > 1:
            raise Refusal(413, "too_many_images", "one image is explained at a time")
        numbers = "application/json" in request.headers.get("accept", "")
        version, explained, heat, png = await service.explain(
            model, images[0], kind, class_name, None if numbers else picture
        )
        if png is not None:
            return Response(png, media_type="image/png", headers={"X-Version": version_text(version)})
        about = Heat(model=model, version=version_text(version), heat=heat.tolist(), **vars(explained))
        return JSONResponse(about.model_dump())

    return routes


def _add_errors(app: FastAPI, service: Service) -> None:
    def add(kind: type[Exception], refusal_from: Callable[[Any], Refusal]) -> None:
        @app.exception_handler(kind)
        async def handle(_: Request, error: Exception) -> JSONResponse:
            refusal = refusal_from(error)
            service.metrics.refused.labels(refusal.code).inc()
            return JSONResponse(error_body(refusal.code, refusal.message), refusal.status, refusal.headers)

    add(Refusal, lambda refusal: refusal)
    add(VitadaptError, refusal_of)
    add(RequestValidationError, invalid)
    add(HTTPException, _of_http)
    add(Exception, lambda _: Refusal(500, "internal", "this should not have happened; the server's log says more"))


def _of_http(error: HTTPException) -> Refusal:
    texts = {404: ("not_found", "there is nothing here; see openapi.json"), 405: ("wrong_method", "not this way")}
    code, message = texts.get(error.status_code, ("refused", str(error.detail)))
    return Refusal(error.status_code, code, message, dict(error.headers or {}))
