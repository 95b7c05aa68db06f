"""`vitadapt push`: a model's folder to the Hugging Face hub, looked at before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...training.adapter_file import ADAPTER, read_adapter
from ...utils.errors import ConfigError, StorageError, WeightsError, damaged
from ...utils.optional import failures, package
from ..documents import CARD

_NEEDED = {"vitadapt": (ADAPTER,), "transformers": ("config.json", "model.safetensors", "preprocessor_config.json")}
"""What a repository must hold, by the library that loads it."""


@dataclass(frozen=True)
class Upload:
    """What would be sent: the files with their sizes in bytes, and the metadata of the model card."""

    repository: str
    folder: Path
    files: dict[str, int]
    card: dict[str, Any]


def prepare(folder: Path | str, repository: str) -> Upload:
    """Everything that `push` would do, except sending it; no network is used.

    Raises ConfigError for an impossible repository name and WeightsError for a folder or a model card that is not fit.
    """
    hub, folder = package("huggingface_hub", "hf"), Path(folder)
    try:
        package("huggingface_hub.utils", "hf").validate_repo_id(repository)
    except ValueError as error:
        raise ConfigError(f"{repository!r} cannot be the name of a repository; use USER/NAME") from error
    if not (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
        raise WeightsError(f"{folder}: there is no {ADAPTER} here; name a folder made by 'fit' or 'export --to hf'")
    card = _card(hub, folder / CARD)
    for name in _NEEDED[card["library_name"]]:
        if not (folder / name).is_file():
            raise WeightsError(f"{folder}: there is no {name} here, which {card['library_name']} needs; make it again")
    if card["library_name"] == "vitadapt":
        read_adapter(folder / ADAPTER)
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    inside = {path.relative_to(folder): path for path in found}
    files = {
        name.as_posix(): path.stat().st_size
        for name, path in inside.items()
        if not any(part.startswith(".") for part in name.parts)
    }
    return Upload(repository, folder, files, card)


def _card(hub: Any, path: Path) -> dict[str, Any]:
    """The metadata at the head of the model card, checked. Raises WeightsError naming what to write there."""
    if not path.is_file():
        raise WeightsError(f"{path} is missing: the hub shows it as the model card; make one with 'vitadapt fit'")
    with damaged(path, "mend the metadata between the lines ---", WeightsError, "has metadata that are not valid"):
        data: dict[str, Any] = hub.ModelCard(path.read_text("utf-8"), ignore_metadata_errors=False).data.to_dict()
    required = {"library_name": tuple(_NEEDED), "pipeline_tag": ("image-classification",)}
    for name, values in required.items():
        if data.get(name) not in values:
            raise WeightsError(f"{path}: its metadata lack '{name}: {values[0]}', by which the hub finds such models")
    if not data.get("license"):
        raise WeightsError(
            f"{path}: its metadata name no licence; add a line such as 'license: apache-2.0' ('other' is possible)"
        )
    return data


def push(upload: Upload, private: bool = True) -> str:
    """Send it -> the address. Raises StorageError with the hub's own reason."""
    hub = package("huggingface_hub", "hf")
    try:
        api = hub.HfApi()
        api.create_repo(upload.repository, private=private, exist_ok=True)
        sent = api.upload_folder(
            repo_id=upload.repository,
            folder_path=upload.folder,
            allow_patterns=list(upload.files),
            commit_message="Model",
        )
    except failures() as error:
        reason = str(error).strip().partition("\n")[0]
        raise StorageError(
            f"could not push to {upload.repository}: {reason}; log in with 'hf auth login', and look at --dry-run"
        ) from error
    return str(getattr(sent, "repo_url", "") or f"https://huggingface.co/{upload.repository}")
