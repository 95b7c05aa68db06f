"""Runs in a tracking program (MLflow, Weights & Biases, TensorBoard, Trackio), behind one interface.

`tracked("mlflow", "my-model")` is a run there: parameters, numbers by step, pictures and files. Its method `epoch` is
what `Setting.on_epoch` wants. Where a program keeps its runs is told by its own environment variables, or behind a
colon: mlflow:URI, wandb:PROJECT, tensorboard:FOLDER, trackio:PROJECT. Others are registered in `TRACKERS`.
"""

from __future__ import annotations

import logging
import re
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .atomic import make_folder
from .errors import ConfigError, describe
from .optional import package
from .registry import Registry

_log = logging.getLogger(__name__)
PROJECT = "vitadapt"
_UNUSUAL = re.compile(r"[^\w./ -]")  # characters that some program refuses in a name


@dataclass
class Tracker(ABC):
    """One run of a tracking program."""

    trainings: Counter[str] = field(default_factory=Counter, init=False)

    @abstractmethod
    def parameters(self, values: Mapping[str, str]) -> None:
        """What the run was asked for."""

    @abstractmethod
    def number(self, name: str, value: float, step: int = 0) -> None:
        """A loss or a score."""

    @abstractmethod
    def picture(self, path: Path) -> None:
        """A PNG file, to be shown; its name is that of the file."""

    @abstractmethod
    def file(self, path: Path) -> None:
        """A file to be kept."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """The run has ended."""

    def epoch(self, training: str, epoch: int, loss: float) -> None:
        """The mean loss of an epoch, counted from 1. Trainings of the same name get numbers."""
        self.trainings[training] += epoch == 1
        again = self.trainings[training]
        name = _UNUSUAL.sub("_", training) + (f" {again}" if again > 1 else "")
        self.number(f"loss/{name}", loss, epoch)


Begin = Callable[[str, str], Tracker]
"""Makes a run, from its name and the text behind the colon (empty: the program's own place)."""
TRACKERS: Registry[Callable[[], Begin]] = Registry("tracker", "vitadapt.trackers")
"""Name -> what imports the program and gives its `Begin`."""


def tracker_of(spec: str) -> Begin:
    """What makes a run of the program that `spec` names.

    Raises UnknownName for a program that is not known, MissingPackage naming the extra of one that is not installed.
    """
    return TRACKERS[spec.partition(":")[0]]()


@contextmanager
def tracked(spec: str, name: str) -> Iterator[Tracker]:
    """A run called `name` of the program that `spec` names. A failure of the program after that is one warning.

    Raises as `tracker_of`, and ConfigError where the program cannot begin a run.
    """
    begin, (kind, _, where) = tracker_of(spec), spec.partition(":")
    try:
        tracker = _Shielded(kind, begin(name, where))
    except Exception as error:
        raise ConfigError(f"{kind} cannot begin a run ({describe(error)}); see its own documentation") from error
    failed = True
    try:
        yield tracker
        failed = False
    finally:
        tracker.close(failed)


@dataclass
class _Shielded(Tracker):
    """Passes on what it is told, until the program fails: one warning, and no more, for the work is worth more."""

    kind: str
    inner: Tracker
    broken: bool = field(default=False, init=False)

    def _tell(self, call: Callable[..., None], *told: Any) -> None:
        if self.broken:
            return
        try:
            call(*told)
        except Exception as error:  # noqa: BLE001 - programs of others
            self.broken = True
            _log.warning(
                "%s failed (%s): this run is not tracked any further, the work goes on", self.kind, describe(error)
            )

    def parameters(self, values: Mapping[str, str]) -> None:
        self._tell(self.inner.parameters, values)

    def number(self, name: str, value: float, step: int = 0) -> None:
        self._tell(self.inner.number, name, value, step)

    def picture(self, path: Path) -> None:
        self._tell(self.inner.picture, path)

    def file(self, path: Path) -> None:
        self._tell(self.inner.file, path)

    def close(self, failed: bool) -> None:
        if self.broken:
            with suppress(Exception):  # it was told already
                self.inner.close(True)
        self._tell(self.inner.close, failed)


@dataclass
class _Mlflow(Tracker):
    client: Any
    run: str

    def parameters(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self.client.log_param(self.run, name, value)

    def number(self, name: str, value: float, step: int = 0) -> None:
        self.client.log_metric(self.run, name, value, step=step)

    def picture(self, path: Path) -> None:
        self.client.log_artifact(self.run, str(path), "pictures")

    def file(self, path: Path) -> None:
        self.client.log_artifact(self.run, str(path))

    def close(self, failed: bool) -> None:
        self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


@TRACKERS.register("mlflow")
def _mlflow() -> Begin:
    mlflow = package("mlflow", "mlflow")

    def begin(name: str, where: str) -> Tracker:
        client = mlflow.MlflowClient(where or None)
        known = client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else client.create_experiment(PROJECT)
        return _Mlflow(client, client.create_run(experiment, run_name=name).info.run_id)

    return begin


@dataclass
class _Wandb(Tracker):
    wandb: Any
    run: Any

    def parameters(self, values: Mapping[str, str]) -> None:
        self.run.config.update(dict(values))

    def number(self, name: str, value: float, step: int = 0) -> None:
        self.run.log({name: value, "epoch": step})

    def picture(self, path: Path) -> None:
        self.run.log({path.stem: self.wandb.Image(str(path))})

    def file(self, path: Path) -> None:
        artifact = self.wandb.Artifact(_UNUSUAL.sub("_", f"{self.run.id}-{path.name}"), type="model")
        artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


@TRACKERS.register("wandb")
def _wandb() -> Begin:
    wandb = package("wandb", "wandb")
    return lambda name, where: _Wandb(wandb, wandb.init(project=where or PROJECT, name=name, reinit="create_new"))


@dataclass
class _TensorBoard(Tracker):
    writer: Any
    folder: Path

    def parameters(self, values: Mapping[str, str]) -> None:
        self.writer.add_text("parameters", "\n".join(f"    {name}: {value}" for name, value in values.items()))

    def number(self, name: str, value: float, step: int = 0) -> None:
        self.writer.add_scalar(name.replace(" ", "_"), value, step)

    def picture(self, path: Path) -> None:
        import numpy as np
        from PIL import Image

        self.writer.add_image(path.stem, np.asarray(Image.open(path).convert("RGB")), dataformats="HWC")

    def file(self, path: Path) -> None:
        shutil.copy(path, self.folder)

    def close(self, failed: bool) -> None:
        self.writer.close()


@TRACKERS.register("tensorboard")
def _tensorboard() -> Begin:
    writer = package("tensorboardX", "tensorboard").SummaryWriter

    def begin(name: str, where: str) -> Tracker:
        base = Path(where or "tensorboard")
        folder = base / f"{name}-{sum(1 for _ in base.glob(f'{name}-*')) + 1}"
        make_folder(folder)
        return _TensorBoard(writer(str(folder)), folder)

    return begin


@dataclass
class _Trackio(Tracker):
    trackio: Any

    def parameters(self, values: Mapping[str, str]) -> None:
        self.trackio.log({"parameters": dict(values)})

    def number(self, name: str, value: float, step: int = 0) -> None:
        self.trackio.log({name: value, "epoch": step})

    def picture(self, path: Path) -> None:
        self.trackio.log({path.stem: self.trackio.Image(str(path))})

    def file(self, path: Path) -> None:
        self.trackio.save(str(path))

    def close(self, failed: bool) -> None:
        self.trackio.finish()


@TRACKERS.register("trackio")
def _trackio() -> Begin:
    trackio = package("trackio", "trackio")

    def begin(name: str, where: str) -> Tracker:
        trackio.init(project=where or PROJECT, name=name)
        return _Trackio(trackio)

    return begin
