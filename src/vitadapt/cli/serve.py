"""`vitadapt serve`: a folder of models behind HTTP."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from ..utils.errors import ConfigError
from . import options as opt
from .output import complain

if TYPE_CHECKING:
    from ..serving.server.run import Address

app = typer.Typer()
_MIB = 1 << 20


@opt.command(app, opt.IMAGES, "vitadapt serve models/ --port 8000")
def serve(
    folder: Annotated[Path, Argument(help="A model, or a folder of models, watched for changes.")],
    host: Annotated[str, Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, Option(help="0 takes a free one.")] = 8000,
    token: Annotated[str, Option(envvar="VITADAPT_TOKEN", help="Every request must have it; allows uploads.")] = "",
    allow_anyone: Annotated[bool, Option("--allow-anyone", help="Allow other machines without a token.")] = False,
    allow_host: Annotated[list[str] | None, Option(help="Another name of this server; repeatable.")] = None,
    resident: Annotated[int | None, Option(min=1, help="Adapters kept ready on the device (default: all).")] = None,
    batch: Annotated[int, Option(help="Images that the network computes together.")] = 32,
    wait_ms: Annotated[float, Option(help="How long an idle network waits for more images.")] = 5.0,
    queue: Annotated[int, Option(help="Images accepted and not answered yet; then 503.")] = 512,
    max_bytes: Annotated[int, Option(help="Of one request.")] = 20 * _MIB,
    max_pixels: Annotated[int, Option(help="Of one image.")] = 50_000_000,
    max_images: Annotated[int, Option(help="Of one request.")] = 32,
    max_memory: Annotated[int, Option(help="Bytes of all requests in progress.")] = 512 * _MIB,
    max_requests: Annotated[int, Option(help="Answered at a time; then 503.")] = 512,
    timeout: Annotated[float, Option(help="Seconds until an answer must be there.")] = 60.0,
    read_timeout: Annotated[float, Option(help="Seconds for a body; a header has a third.")] = 30.0,
    poll: Annotated[float, Option(help="Seconds between two checks of the folder.")] = 1.0,
    threads: Annotated[int | None, Option(min=1, help="CPU threads of the network.")] = None,
    precision: opt.PrecisionOption = "fp32",
    backbone: opt.MovedBackbone = None,
    device: opt.Device = "auto",
) -> None:
    """Serve models over HTTP, many adapters on one backbone: predictions, heat maps, and a page to try them."""
    _require_extra()
    from dataclasses import replace

    import torch

    from ..serving.server.limits import Limits
    from ..serving.server.run import Address, run
    from ..serving.server.service import Service

    if not folder.exists():
        raise ConfigError(f"{folder}: no such folder; make a model with 'vitadapt fit PHOTOS --out {folder}/NAME'")
    if not 0 < poll < math.inf:
        raise ConfigError("--poll must be a number above 0")
    limits = Limits(
        batch=batch, wait_ms=wait_ms, queue=queue, max_bytes=max_bytes, max_pixels=max_pixels, max_images=max_images,
        max_memory=max_memory, max_requests=max_requests, max_connections=2 * max_requests, timeout=timeout,
        read_timeout=read_timeout, header_timeout=read_timeout / 3,
    )  # fmt: skip
    address = Address(host, port, token, tuple(allow_host or ()))
    _check_address(address, allow_anyone)
    if threads is not None:
        torch.set_num_threads(threads)
    setting = replace(opt.environment_of(None, True, None, device).setting, precision=precision)
    service = Service(folder, setting, limits, resident, poll, complain, backbone)
    run(service, address, complain)


def _require_extra() -> None:
    """Raises ConfigError when a package of the extra is missing."""
    from importlib.util import find_spec

    from .installation import extras

    extra = extras()["server"]
    missing = [name for name in extra.modules.values() if not find_spec(name)]
    if missing:
        raise ConfigError(f"serve needs {', '.join(missing)}: {extra.install}")


def _check_address(address: Address, allow_anyone: bool) -> None:
    """Raises ConfigError for an address that others can reach, unless a token guards it or it is wanted so."""
    if address.loopback or address.token:
        return
    if not allow_anyone:
        raise ConfigError(
            f"--host {address.host} can be reached by other machines: set --token (or VITADAPT_TOKEN), "
            "or say --allow-anyone"
        )
    complain(f"warning: anyone who can reach {address.host} may use these models")
