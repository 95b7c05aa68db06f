"""From image files to a record: our protocols beside a plain loop that follows the published schedule.

    python benchmarks/protocol.py --shots 5 --backbone random:vit-b32 --method kadaptation

The published schedule: a search of 66 to 90 trainings of ten epochs, a final training of fifty, every image decoded
again in every epoch, and a pass over the whole test set after every epoch of the final training. Same images, same
model, same method; charged twice: with our training step, so that the ratio is that of the schedules alone, and with
the step as the published code computes it (published.py), which is what somebody who runs that code waits for.

First part, MEASURED: one dataset-seed of made-up image files on a tiny backbone, really run both ways, by phase. The
plain loop trains what the search of `elevater` asked for, repetitions included, and must reach its score. Beside it
stands what the second part would have said of this run: that is the check of the second part.

Second part, EXTRAPOLATED: decoding, training steps, scoring, test pass and building a model are measured on the chosen
backbone, ours and the published step in turns, and multiplied by the exact counts of the schedules, for data sets of
the sizes in the catalog.

With --clock cpu the processor's seconds are taken instead of the wall clock's: for machines with other work to do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from published import AsPublished
from step import CLASSES, Contender, Theirs, our_model
from torch import Tensor

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.leaderboard.suite import required, suite
from vitadapt.benchmark.plan import Pace, pace_of
from vitadapt.benchmark.prepare import prepare
from vitadapt.benchmark.protocols.registry import PROTOCOLS
from vitadapt.benchmark.protocols.standard import Elevater
from vitadapt.benchmark.protocols.steps import at_point, published_split
from vitadapt.benchmark.results.record import Record
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.runner import run
from vitadapt.benchmark.sweep import expand
from vitadapt.data import Examples, Geometry, open_dataset
from vitadapt.data.images import to_pixels
from vitadapt.data.parallel import each
from vitadapt.methods.spec import method_text
from vitadapt.nn.setting import Setting
from vitadapt.nn.vit import ViT
from vitadapt.training.features import Environment
from vitadapt.training.loop import forward_all, probabilities_of
from vitadapt.training.task import Task, derive
from vitadapt.utils.errors import Diverged
from vitadapt.weights import load_backbone

PROTOCOL_NAMES = ("fixed", "halving", "cv", "elevater")
TARGETS = {"elevater": 5.0, "halving": 20.0, "fixed": 60.0}
EPOCHS, FINAL = Elevater().epochs, 50
BATCH = 16  # of which the pace is taken; larger ones are no faster (benchmarks/shares.py)
PHASES = ("decode", "features", "search", "final", "test", "rest")
clock: Callable[[], float] = time.perf_counter


@dataclass
class Stopwatch:
    """Seconds by phase, from the labels of a run's progress; training the head first counts for what follows."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = 0.0
    waiting: float = 0.0

    def __call__(self, label: str, done: int, total: int) -> None:
        now = clock()
        spent, self.last = now - self.last, now
        if label == "head":
            self.waiting += spent
            return
        self.add(phase_of(label), spent + self.waiting)
        self.waiting = 0.0

    def add(self, phase: str, seconds: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds


def phase_of(label: str) -> str:
    word = label.split()[0]
    return {"decoding": "decode", "features": "features", "search": "search", "train": "final", "test": "test"}.get(
        word, "rest"
    )


class Redecoded:
    """Images that are decoded every time they are asked for; keeps count of the seconds."""

    def __init__(self, examples: Examples, geometry: Geometry) -> None:
        self.examples, self.geometry, self.seconds = examples, geometry, 0.0

    def __len__(self) -> int:
        return len(self.examples)

    def gather(self, rows: Tensor) -> Tensor:
        start = clock()
        refs = [self.examples.refs[row] for row in rows.tolist()]
        images = torch.from_numpy(
            np.stack(list(each(lambda ref: to_pixels(ref.read(), self.geometry), refs, "decoding")))
        )
        self.seconds += clock() - start
        return images


@contextmanager
def spent(into: dict[str, float], phase: str) -> Iterator[None]:
    start = clock()
    yield
    into[phase] = into.get(phase, 0.0) + clock() - start


def make_images(folder: Path, classes: int, train: int, test: int, side: int) -> None:
    """JPEG files of smooth noise around a colour per class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for number in range(classes * count):
            label = number % classes
            place = folder / split / f"class-{label:03d}"
            place.mkdir(parents=True, exist_ok=True)
            coarse = (60 * rng.normal(size=(8, 8, 3)) + 128 + 40 * np.sin(label + np.arange(3))).clip(0, 255)
            image = Image.fromarray(coarse.astype(np.uint8)).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
            image.save(place / f"{number}.jpg", quality=90)


def ours(config: RunConfig, folder: Path) -> tuple[Record, dict[str, float]]:
    """One cell with nothing in the cache: its record, and seconds by phase."""
    watch, start = Stopwatch(last=clock()), clock()
    environment = Environment(folder / f"cache-{config.protocol}", None, Setting(progress=watch))
    record = run(config, Store(folder / f"runs-{config.protocol}"), environment)
    watch.add("rest", clock() - watch.last)
    watch.add("total", clock() - start)
    return record, watch.seconds


def published(config: RunConfig, trace: Sequence[Sequence[Any]]) -> tuple[float, dict[str, float]]:
    """The plain loop, with the trials of `trace`: the score of its last epoch, and seconds by phase."""
    seconds, start = dict[str, float](), clock()
    ready = prepare(config, Environment(None))
    task, test, images = plain_task(ready.task, ready.pool, ready.dataset.splits["test"])
    split = published_split(config, task.labels)
    train, held = task.take(split.train), task.take(split.held)
    init, order = derive(config.seed, "init"), derive(config.seed, "order")
    with spent(seconds, "search"):
        for lr, decay, epochs, _, _ in trace:
            model = task.build(init)
            recipe = replace(at_point(task.recipe, lr, decay), epochs=epochs)
            with suppress(Diverged):  # the published code skips such a candidate
                train.fit(model, recipe, order, after_epoch=partial(no_result, held.score, model))
    best = max(trace, key=lambda row: -1.0 if row[3] is None else row[3])
    model, scores = task.build(init), list[float]()

    def look() -> None:
        with spent(seconds, "test"):
            logits = forward_all(model, test, task.setting, "test")
            scores.append(test_score(probabilities_of(logits, False), ready.dataset.splits["test"].labels))

    with spent(seconds, "final"):
        task.take(split.final).fit(model, at_point(task.recipe, best[0], best[1]), order, after_epoch=look)
    seconds["final"] -= seconds["test"]
    seconds["total"] = clock() - start
    seconds["of which decode"] = sum(each_.seconds for each_ in (images, test))
    return scores[-1], seconds


def no_result(work: Callable[[Any], object], argument: Any) -> None:
    work(argument)


def plain_task(task: Task, pool: Examples, test: Examples) -> tuple[Task, Redecoded, Redecoded]:
    shape = cast(Any, task.backbone)
    geometry = Geometry(shape.image_size, shape.preprocess.resize)
    images = Redecoded(pool, geometry)
    return replace(task, images=images), Redecoded(test, geometry), images


def test_score(probabilities: Tensor, labels: np.ndarray) -> float:
    return 100 * float((probabilities.argmax(1).numpy() == labels).mean())


@dataclass(frozen=True)
class Parts:
    """Seconds: decoding one image, building one classifier, and by protocol those of `plan.Pace`.

    slower: how many times longer a training step, and a forward pass, take when computed as in the published code.
    """

    decode: float
    build: float
    paces: dict[str, Pace]
    slower: tuple[float, float] = (1.0, 1.0)


def measure_parts(configs: Sequence[RunConfig], files: Examples, batch: int, as_published: bool = False) -> Parts:
    """The parts for batches of at most `batch` images."""
    slower = slower_steps(configs[0], batch) if as_published else (1.0, 1.0)
    task = prepare(configs[0], Environment(None)).task
    geometry = plain_task(task, files, files)[2].geometry
    images, rows = Redecoded(files, geometry), torch.arange(min(len(files), 64))
    for chunk in (*rows.split(batch), *rows.split(batch)):
        images.gather(chunk)
    start = clock()
    for _ in range(5):
        task.build(0)
    build = (clock() - start) / 5
    return Parts(images.seconds / (2 * len(rows)), build, {c.protocol: pace(c, batch) for c in configs}, slower)


def pace(config: RunConfig, batch: int) -> Pace:
    recipe = config.resolved().recipe
    assert recipe is not None
    recipe = replace(recipe, batch_size=min(batch, recipe.batch_size))
    return pace_of(replace(config, dataset="", seed=0, shots=None, recipe=recipe), Setting(), clock)


def slower_steps(config: RunConfig, batch: int, rounds: int = 5) -> tuple[float, float]:
    """Times longer that a training step and a forward pass take as published, measured in turns with ours."""
    vit = cast(ViT, load_backbone(config.backbone, image_size=config.image_size))
    size, generator = vit.image_size, torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, size, size, generator=generator)
    labels = torch.arange(batch) % CLASSES
    method = method_text(config.method)
    models = [our_model(vit, method), Theirs(AsPublished(vit, method), vit.features)]
    pair = [Contender(str(i), model, images, labels) for i, model in enumerate(models)]
    found = []
    for work in (Contender.train, Contender.infer):
        seconds = []
        for _ in range(rounds + 1):
            seconds.append([timed_once(partial(work, contender)) for contender in pair])
        ours, theirs = (statistics.median(row) for row in zip(*seconds[1:], strict=True))
        found.append(theirs / ours)
    return found[0], found[1]


def timed_once(work: Callable[[], object]) -> float:
    start = clock()
    work()
    return clock() - start


def expected(config: RunConfig, parts: Parts, labels: Tensor, test: int) -> float:
    """Seconds of one of our protocols: decode once, features once, what its budget says, one pass over the test set."""
    pace, budget = parts.paces[config.protocol], PROTOCOLS[config.protocol].budget(config, labels)
    once = (parts.decode + pace.forward) * len(labels) + (parts.decode + pace.scored) * test
    work = pace.trained * budget.trained + pace.scored * budget.scored
    return float(once + work + parts.build * (budget.trials + 1))


def expected_published(
    config: RunConfig, parts: Parts, labels: Tensor, test: int, trials: int, slower: tuple[float, float] = (1.0, 1.0)
) -> float:
    """Seconds of the published schedule, its training step and forward pass so many times longer than ours."""
    pace, split = parts.paces["elevater"], published_split(config, labels)
    step, look = parts.decode + slower[0] * pace.trained, parts.decode + slower[1] * pace.scored
    trial = EPOCHS * (step * len(split.train) + look * len(split.held)) + parts.build
    return float(trials * trial + FINAL * (step * len(split.final) + look * test) + parts.build)


def show(title: str, columns: Sequence[str], rows: dict[str, Sequence[str]]) -> None:
    print(f"\n{title}")
    print(f"{'':30s}" + "".join(f"{column:>12s}" for column in columns))
    for name, cells in rows.items():
        print(f"{name:30s}" + "".join(f"{cell:>12s}" for cell in cells))


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    make_images(folder / "images", arguments.classes, arguments.shots, arguments.test, arguments.side)
    axes = {"backbone": "random:tiny", "dataset": str(folder / "images"), "method": arguments.method}
    configs = expand({**axes, "shots": arguments.shots, "protocol": list(PROTOCOL_NAMES)})
    ours(replace(configs[0], seed=1), folder / "first")  # what a process pays once: imports, backbone, audit
    found = {config.protocol: ours(config, folder) for config in configs}
    elevater = next(config for config in configs if config.protocol == "elevater")
    trace = found["elevater"][0].chosen["trace"]
    score, theirs = published(elevater, trace)
    dataset = open_dataset(elevater.dataset)
    parts = measure_parts(configs, dataset.splits["test"], arguments.classes * (arguments.shots - 1))
    labels, test = torch.from_numpy(dataset.splits["train"].labels), len(dataset.splits["test"])
    guess = {c.protocol: expected(c, parts, labels, test) for c in configs}
    guess["published"] = expected_published(elevater, parts, labels, test, len(trace))
    rows: dict[str, Sequence[str]] = {}
    for name, (record, seconds) in found.items():
        rows[name] = line(seconds, theirs["total"], record.score or 0.0, guess[name])
    rows["published schedule"] = line(theirs, theirs["total"], score, guess["published"])
    sizes = f"{arguments.classes} classes x {arguments.shots}, {test} test images, {len(trace)} trials"
    title = f"MEASURED in seconds ({arguments.clock}), random:tiny, {sizes}"
    show(title, [*PHASES, "total", "ratio", "score", "by parts"], rows)
    print(f"decoding within the published schedule: {theirs['of which decode']:.1f} s")
    return {"ours": {name: seconds for name, (_, seconds) in found.items()}, "published": theirs, "by parts": guess}


def line(seconds: dict[str, float], theirs: float, score: float, guess: float) -> list[str]:
    shown = [f"{seconds.get(phase, 0.0):.1f}" for phase in (*PHASES, "total")]
    return [*shown, f"{theirs / seconds['total']:.1f}", f"{score:.1f}", f"{guess:.1f}"]


def extrapolated(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Hours by data set of the catalog; the parts are measured on files of 500 x 375 pixels."""
    make_images(folder / "large", 4, arguments.shots, 16, 500)
    axes = {"backbone": arguments.backbone, "dataset": str(folder / "large"), "method": arguments.method}
    if arguments.image_size:
        axes["image_size"] = arguments.image_size
    configs = expand({**axes, "shots": arguments.shots, "protocol": list(PROTOCOL_NAMES)})
    parts = measure_parts(configs, open_dataset(str(folder / "large")).splits["test"], BATCH, as_published=True)
    totals, rows = dict.fromkeys((*PROTOCOL_NAMES, "schedule", "published"), 0.0), dict[str, Sequence[str]]()
    for row in (suite()[name] for name in required()):
        classes = len(row.classes)
        labels = torch.arange(min(row.sizes["train"], arguments.shots * classes)) % classes
        hours = {c.protocol: expected(c, parts, labels, row.sizes["test"]) / 3600 for c in configs}
        last = configs[-1]
        count = (labels, row.sizes["test"], arguments.trials)
        hours["schedule"] = expected_published(last, parts, *count) / 3600
        hours["published"] = expected_published(last, parts, *count, parts.slower) / 3600
        for name, value in hours.items():
            totals[name] += value
        rows[row.name] = [*(f"{value:.2f}" for value in hours.values()), *times_faster(hours)]
    rows["all"] = [*(f"{value:.1f}" for value in totals.values()), *times_faster(totals)]
    shown = {n: f"{1000 * p.trained:.1f} / {1000 * p.scored:.1f}" for n, p in parts.paces.items()}
    print(f"\nparts of {arguments.backbone}: decode {1000 * parts.decode:.2f} ms, build {1000 * parts.build:.0f} ms")
    print(f"ms per image of a training step / of scoring: {shown}")
    print("as published these take {:.2f} / {:.2f} times as long".format(*parts.slower))
    title = f"EXTRAPOLATED hours of one seed at {arguments.shots} shots, and times faster than published"
    show(title, [*totals, *(f"x {name}" for name in PROTOCOL_NAMES)], rows)
    for name, target in TARGETS.items():
        alone, whole = totals["schedule"] / totals[name], totals["published"] / totals[name]
        verdict = "met" if whole >= target else "MISSED"
        print(f"{name}: {whole:.1f} x faster, target {target:.0f} x: {verdict} ({alone:.1f} x by the schedule alone)")
    return {"hours": totals, "slower": parts.slower, "rows": {name: list(cells) for name, cells in rows.items()}}


def times_faster(hours: dict[str, float]) -> list[str]:
    return [f"{hours['published'] / hours[name]:.1f}" for name in PROTOCOL_NAMES]


def main() -> None:
    global clock
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="random:vit-b32", help="of the extrapolated part")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--method", default="kadaptation")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--classes", type=int, default=4, help="of the measured part")
    parser.add_argument("--test", type=int, default=25, help="test images per class of the measured part")
    parser.add_argument("--side", type=int, default=160, help="width in pixels of its files")
    parser.add_argument(
        "--trials", type=int, default=Elevater().grid.most_trials, help="of the published search, 66-90"
    )
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--only", nargs="+", choices=("measured", "extrapolated"), default=["measured", "extrapolated"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    parts = {"measured": measured, "extrapolated": extrapolated}
    with tempfile.TemporaryDirectory() as folder:
        found = {name: parts[name](arguments, Path(folder)) for name in arguments.only}
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
