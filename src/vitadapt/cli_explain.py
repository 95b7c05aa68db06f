"""`vitadapt explain`: where a model looks in a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import Device, environment_of
from .errors import ConfigError

app = typer.Typer()

_SIDE = 448  # pixels of each half of the picture, at least


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="A folder made by fit, or an adapter file.")],
    image: Annotated[Path, typer.Argument(help="A picture.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A .png file (default: the picture's name with -heat.png).")
    ] = None,
    kind: Annotated[str, typer.Option(help="gradient or input (for one class), or rollout (attention alone).")] = (
        "gradient"
    ),
    name: Annotated[
        str | None, typer.Option("--class", help="The class to explain (default: the most probable).")
    ] = None,
    device: Device = "auto",
) -> None:
    """Draw where the model looks: what it sees, and beside it a heat map of what speaks for a class."""
    from .explained import explain_file
    from .own.model import load_model

    out = out or Path(f"{image.stem}-heat.png")
    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out}: a heat map is a PNG; end the name in .png")
    loaded = load_model(model, environment_of(None, True, None, device).setting.device)
    found = explain_file(loaded, image, out, kind, name, _SIDE)
    print(f"{image}: {found.answer} ({100 * found.probability:.1f} %)")
    if found.explained is not None and found.explained != found.answer:
        print(f"explained: {found.explained} ({100 * found.explained_probability:.1f} %)")
    print(out)
