"""From a configuration to a record, top to bottom."""

from __future__ import annotations

import platform
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from .adapter import AdapterInfo, adapter_bytes
from .audit import LEARNABLE, TensorReport, probe, require_learnable
from .config import RunConfig, data_table
from .data import Dataset, Examples, Geometry, content_digests, open_dataset, open_pixels, sample_few_shot
from .data.fewshot import class_sizes
from .data.pixels import Pixels
from .data.subsets import manifest_digest, read_manifest, subset_rows
from .errors import ConfigError, Diverged, StorageError, VitadaptError
from .files import bytes_digest, read_sealed, write_sealed
from .head import TextStart, unprojected
from .language import text_start
from .metrics import METRICS, per_class, performance_efficiency
from .protocols import PROTOCOLS, Task, Trained
from .released import UNBLINDED, OpenTest, Seen, procedure_of
from .results import Record, Store
from .surgery import trainable
from .train import Setting, forward_all, probabilities_of
from .weights import backbone_digest, load_backbone
from .weights.names import backbones


@dataclass(frozen=True)
class Environment:
    """Where a run happens: nothing here changes its numbers. `cache` None decodes images anew each time.

    `subset` is the file of the manifest whose digest a configuration names.
    """

    cache: Path | None = None
    data_root: Path | None = None
    setting: Setting = field(default_factory=Setting)
    subset: Path | None = None


class SealedTest:
    """The test labels. They can be asked for one score, once."""

    def __init__(self, labels: np.ndarray, metric: str) -> None:
        self._labels, self._metric, self._asked = labels, METRICS[metric], False

    def score(self, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
        """(score, per-class scores) in percent. Raises RuntimeError when asked a second time."""
        if self._asked:
            raise RuntimeError("the test set has been scored already; choose nothing by it")
        self._asked = True
        return 100 * self._metric(self._labels, probabilities), 100 * per_class(self._labels, probabilities)


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def run(
    config: RunConfig,
    store: Store | Path | str = "runs",
    environment: Environment | None = None,
    *,
    wait: bool = True,
) -> Record:
    """Run one cell and record it in `store`; a cell that is recorded already is returned as it stands.

    A training that diverges is recorded as such. Any other error leaves its trace in the store and is raised.
    Raises CellBusy, unless told to `wait`, when another process is running this cell.
    """
    environment = environment or Environment()
    store = store if isinstance(store, Store) else Store(store)
    config = config.resolved()
    digest = config.digest()
    with store.lock(digest, wait):
        done = store.get(digest)
        if done is not None:
            return done
        store.sweep(digest)
        try:
            return _run(config, digest, store, environment)
        except Exception:
            trace = traceback.format_exc()
            with suppress(StorageError):  # where the trace cannot be kept the error itself must still be told
                store.fail(digest, trace)
            raise


def _run(config: RunConfig, digest: str, store: Store, environment: Environment) -> Record:
    clock = Clock()
    if LEARNABLE not in config.method.breaks:
        require_learnable(cached_probe(config.backbone, config.image_size, cast(Any, config.method)))
    ready = prepare(config, environment, clock)
    task = replace(ready.task, checkpoint=store.path("checkpoints", digest), trials=store.path("trials", digest))
    dataset = ready.dataset
    with clock.phase("data"):
        test = pixels_of(dataset.splits["test"], dataset, task.backbone, environment)
    labels = dataset.splits["test"].labels
    record = _blank_record(config, digest, dataset, ready.pool, task, environment)
    record = replace(record, notes=[*record.notes, *ready.said])
    try:
        with clock.phase("train"):
            trained, seen = _train(task, OpenTest(test, labels))
    except Diverged as error:
        notes = [*record.notes, str(error)]
        record = replace(record, status="diverged", notes=notes, chosen=error.chosen, seconds=clock.seconds)
        return _kept(store, record, None, labels, None)
    with clock.phase("test"):
        if seen is not None:
            probabilities, score, by_class = seen.probabilities, seen.score, 100 * seen.per_class(labels)
            record = replace(record, scores=seen.scores)
        else:
            probabilities = predict(trained, ready.frozen, test, dataset, environment, task.setting)
            score, by_class = SealedTest(labels, dataset.metric).score(probabilities)
    record = _finished(record, trained, score, by_class, clock)
    return _kept(store, record, probabilities, labels, adapter_bytes(trained.model, _info(config, ready)))


def _kept(store: Store, record: Record, probabilities: np.ndarray | None, labels: np.ndarray, adapter: Any) -> Record:
    """The record of this cell, by whoever was first: a lock does not survive everything, such as an emptied folder."""
    return store.get(record.digest) or store.add(record, probabilities, labels, adapter)


def _info(config: RunConfig, ready: Prepared) -> AdapterInfo:
    """What the adapter file of this cell says: nothing of when and how fast, so that equal cells give equal bytes."""
    dataset, row = ready.dataset, backbones().get(config.backbone)
    size = cast(Any, ready.task.backbone).image_size
    info = AdapterInfo(config.method, config.backbone, size, dataset.classes, ready.base, config.head_spec)
    summary = {"images": len(ready.pool), "dataset": dataset.name, "protocol": config.protocol, "seed": config.seed}
    return replace(info, squash=dataset.squash, training=summary, base_licence=row.licence if row else "")


def _train(task: Task, test: OpenTest) -> tuple[Trained, Seen | None]:
    """The trained classifier, and what a protocol that looks at the test set saw there; no other is given `test`."""
    name = task.config.protocol
    if name not in UNBLINDED:
        return PROTOCOLS[name](task), None
    seen = UNBLINDED[name](task, test)
    return seen.trained, seen


@dataclass(frozen=True)
class Prepared:
    """What a cell works on before any training: nothing of it comes from the test images.

    `base` is the digest of the backbone as it was loaded, `frozen` as it is used; `said` are notes for the record.
    """

    task: Task
    dataset: Dataset
    pool: Examples
    base: str
    frozen: str
    said: list[str]


def prepare(config: RunConfig, environment: Environment, clock: Clock | None = None) -> Prepared:
    """Backbone, labelled images, their features and the text of a cell. The task has no files of its own."""
    clock, setting = clock or Clock(), replace(environment.setting, precision=config.precision)
    with clock.phase("data"):
        backbone, base = cached_backbone(config.backbone, config.image_size, setting.device)
        dataset = open_dataset(config.dataset, environment.data_root)
        pool = training_pool(config, dataset, environment)
        images = pixels_of(pool, dataset, backbone, environment)
    with clock.phase("features"):
        text, said = _text(config, backbone, dataset, environment)
        backbone, frozen, text = _with_projection(config, backbone, base, text)
        features = frozen_features(backbone, frozen, images, environment, "features")
    task = Task(
        config=config,
        backbone=backbone,
        images=images,
        labels=torch.from_numpy(pool.labels),
        classes=len(dataset.classes),
        features=features,
        setting=setting,
        text=text,
        metric=dataset.metric,
    )
    return Prepared(task, dataset, pool, base, frozen, said)


def _text(
    config: RunConfig, backbone: nn.Module, dataset: Dataset, environment: Environment
) -> tuple[TextStart | None, list[str]]:
    if config.head_spec.start != "text":
        return None, []
    return text_start(config, backbone, dataset, environment.cache, environment.setting)


def _with_projection(
    config: RunConfig, backbone: nn.Module, base: str, text: TextStart | None
) -> tuple[nn.Module, str, TextStart | None]:
    """Backbone, its digest and the text as they are; or, where the head is to hold it, all without the projection."""
    if config.head_spec.projection == "kept":
        return backbone, base, text
    bare, projection = unprojected(backbone)
    merged = replace(text, features=text.features.to(projection) @ projection) if text else None  # (C, E) (E, D)
    return bare, backbone_digest(bare), merged


@lru_cache(maxsize=2)
def cached_backbone(name: str, image_size: int | None, device: str) -> tuple[nn.Module, str]:
    """A frozen backbone and its digest; the last two are kept, and nothing ever writes into them."""
    backbone = load_backbone(name, image_size=image_size, device=device)
    return backbone, backbone_digest(backbone)


@lru_cache(maxsize=64)
def cached_probe(name: str, image_size: int | None, method: Any) -> list[TensorReport]:
    """Whether each tensor that `method` trains can learn; asked once per process, not once per seed and dataset."""
    backbone, _ = cached_backbone(name, image_size, "cpu")
    return probe(backbone, method)


def training_pool(config: RunConfig, dataset: Dataset, environment: Environment) -> Examples:
    """The labelled images that a run may use: a given subset, all of train, or `shots` per class drawn with `seed`.

    A method that trains nothing uses none. Raises ConfigError when the environment does not have the subset that the
    configuration names.
    """
    train = dataset.splits["train"]
    if not config.method.trains_head:
        return train.take([])
    if config.subset is not None:
        manifest = read_manifest(environment.subset) if environment.subset else None
        if manifest is None or manifest_digest(manifest) != config.subset:
            raise ConfigError(f"the images of subset {config.subset} are not known here; give its file with --subset")
        return train.take(subset_rows(dataset, manifest, cache=environment.cache))
    shots = procedure_of(config.protocol).draws(config.shots)
    if shots is None:
        return train
    published = dataset.split in ("elevater", "native")  # there, a class with fewer images gives all that it has
    rows = sample_few_shot(train.labels, shots, config.seed, classes=dataset.classes, allow_fewer=published)
    return train.take(rows)


def pixels_of(examples: Examples, dataset: Dataset, backbone: nn.Module, environment: Environment) -> Pixels:
    """The images as `backbone` wants them, decoded once per cache."""
    shape = cast(Any, backbone)
    geometry = Geometry(shape.image_size, shape.preprocess.resize, dataset.squash)
    return open_pixels(examples, geometry, environment.cache, environment.setting.progress)


def frozen_features(backbone: nn.Module, base: str, images: Pixels, environment: Environment, label: str) -> Tensor:
    """Features (N, E) of the unadapted backbone in fp32, computed once per (weights, images) and kept in the cache."""
    setting = replace(environment.setting, precision="fp32")
    if not len(images):
        return torch.zeros(0, cast(Any, backbone).features)
    if environment.cache is None:
        return forward_all(backbone, images, setting, label)
    path = environment.cache / "features" / f"{base}-{images.key}.npy"
    with _one_at_a_time(path):  # several workers may ask at once: one computes, the others wait
        kept = read_sealed(path)
        if kept is None:
            kept = forward_all(backbone, images, setting, label).numpy().astype(np.float32).tobytes()
            write_sealed(path, kept)
    return torch.from_numpy(np.frombuffer(kept, dtype=np.float32).reshape(len(images), -1).copy())


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Holds the lock of a file of the cache. Raises StorageError when its folder cannot be used."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter from a file system without locks
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{path.parent}: cannot be used as a cache ({reason}); choose --cache") from error
    try:
        yield
    finally:
        lock.release()


def predict(
    trained: Trained, base: str, test: Pixels, dataset: Dataset, environment: Environment, setting: Setting
) -> np.ndarray:
    """Test probabilities (N, C), in one pass.

    A head that never saw a label knows no threshold per class: even of several labels it tells the relative likelihood.
    """
    model = trained.model.eval()
    if trainable(model.backbone):
        logits = forward_all(model, test, setting, "test")
    else:
        features = frozen_features(model.backbone, base, test, environment, "test")
        logits = model.head(features.to(setting.device)).detach().cpu()
    multilabel = dataset.splits["test"].multilabel and bool(trainable(model))
    probabilities: np.ndarray = probabilities_of(logits.float(), multilabel).numpy()
    return probabilities


def _blank_record(
    config: RunConfig, digest: str, dataset: Dataset, pool: Examples, task: Task, environment: Environment
) -> Record:
    test = content_digests(dataset.splits["test"], environment.cache)
    return Record(
        digest=digest,
        config=config.to_dict(),
        status="ok",
        metric=dataset.metric,
        score=None,
        pe=None,
        classes=list(dataset.classes),
        per_class=[],
        parameters={},
        chosen={},
        seconds={},
        peak_memory_mb=0.0,
        versions=versions(),
        images={
            "train": content_digests(pool, environment.cache),
            "test": bytes_digest("\n".join(test).encode()),
            "test_count": len(test),
        },
        losses=[],
        notes=[*dataset.notes, *_drawn(config, dataset, pool)],
        caveat=data_table("protocols.toml").get(config.protocol, {}).get("caveat", ""),
        split=dataset.split,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _drawn(config: RunConfig, dataset: Dataset, pool: Examples) -> list[str]:
    """What a reader of "K shots" must know: more were drawn, or some classes have fewer images."""
    drawn = procedure_of(config.protocol).draws(config.shots)
    if drawn is None or config.subset is not None or not len(pool):
        return []
    notes = []
    if drawn != config.shots:
        notes.append(f"{drawn} labelled images per class: {config.shots} to train on, the rest to choose by")
    small = int((class_sizes(pool.labels, dataset.classes) < drawn).sum())
    if small:
        notes.append(f"{small} classes have fewer than {drawn} training images; all of theirs are used")
    return notes


def _finished(record: Record, trained: Trained, score: float, by_class: np.ndarray, clock: Clock) -> Record:
    parameters = count_parameters(trained.model.backbone, trained.model.head)
    return replace(
        record,
        score=score,
        pe=performance_efficiency(score, parameters["trained"]),
        per_class=[None if np.isnan(value) else float(value) for value in by_class],
        parameters=parameters,
        chosen=trained.chosen,
        seconds={name: round(value, 3) for name, value in clock.seconds.items()},
        peak_memory_mb=round(peak_memory_mb(), 1),
        losses=trained.log.losses,
    )


def count_parameters(backbone: nn.Module, head: nn.Module) -> dict[str, int]:
    """Trainable numbers in the backbone and the head, their sum, all numbers of both, and the backbone's ("visual")."""
    body, top = (sum(p.numel() for p in trainable(part).values()) for part in (backbone, head))
    visual, above = (sum(p.numel() for p in part.parameters()) for part in (backbone, head))
    return {"backbone": body, "head": top, "trained": body + top, "total": visual + above, "visual": visual}


def peak_memory_mb() -> float:
    """The most memory this process (on a GPU: its tensors there) has held so far, in MB."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def versions() -> dict[str, str]:
    """What the numbers of a record may depend on besides its configuration."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    for package in ("vitadapt", "torch", "torchvision", "numpy", "pillow", "timm", "open_clip_torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, "threads": str(torch.get_num_threads())}


def describe(error: BaseException) -> str:
    """One line for a person: the message of our own errors, type and message of any other."""
    return str(error) if isinstance(error, VitadaptError) else f"{type(error).__name__}: {error}"
