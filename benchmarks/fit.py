"""The main command beside ten lines of scikit-learn on the same backbone's features, at the backbone's own image size.

    python benchmarks/fit.py photos/stellarium photos/tuxpaint digits --shots 2 5 20 all --seeds 0 1 2 --out fit.jsonl

For each set a part of every class is kept away (the test part where the set has one, a third of each class elsewhere,
at most --most-test images), and `shots` images per class of the rest are written into a folder of class folders. Then
`vitadapt fit` makes a model of this folder in a process of its own, and so does scikit-learn's logistic regression (as
it is, and with C by cross-validation). The table gives accuracy (mean per class, percent), negative log-likelihood
(nats) and CPU-seconds of the whole process, means over the seeds. Results are appended to --out as they come, and what
is there already is not run again. Only development sets belong here.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

BACKBONE = "dinov2-s14-offline"
HEADS = ("fit", "logistic", "logistic, C by CV")


def split(labels: np.ndarray, pool: np.ndarray, seed: int, shots: int | None, given: bool) -> tuple[Any, Any]:
    """Rows to learn from and rows kept away. pool: (N,) may it be learnt from? given: are the others to test with?"""
    rng, train, test = np.random.default_rng(seed), [], []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero((labels == label) & pool))
        away = 0 if given else max(1, len(rows) // 3)
        test.append(rows[:away])
        train.append(rows[away:][:shots])
    return np.concatenate(train), np.flatnonzero(~pool) if given else np.concatenate(test)


def write_pictures(spec: str, target: Path) -> tuple[list[Path], np.ndarray, np.ndarray, list[str]]:
    """Every image as a PNG in `target`, once: paths, labels, whether it belongs to train, and class names."""
    from vitadapt.data import open_dataset
    from vitadapt.data.images import to_rgb, upright

    dataset = open_dataset(spec, whole=True)
    paths, labels, pool = [], [], []
    target.mkdir(parents=True, exist_ok=True)
    for part, examples in sorted(dataset.splits.items()):
        for number, (ref, label) in enumerate(zip(examples.refs, examples.labels.tolist(), strict=True)):
            path = target / f"{part}-{number:05d}.png"
            if not path.exists():
                to_rgb(upright(ref.read())).save(path)
            paths.append(path)
            labels.append(label)
            pool.append(part != "test")
    return paths, np.array(labels), np.array(pool), list(dataset.classes)


def scores(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Accuracy (mean per class, percent) and negative log-likelihood (nats)."""
    right = probabilities.argmax(axis=1) == labels
    accuracy = np.mean([right[labels == c].mean() for c in np.unique(labels)])
    return 100 * float(accuracy), -float(np.log(probabilities[np.arange(len(labels)), labels].clip(1e-12)).mean())


def logistic(folder: Path, out: Path, by_cv: bool) -> None:
    """Ten lines of scikit-learn: features at the backbone's own size, logistic regression, saved as npz."""
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

    paths = sorted(folder.glob("*/*.png"))
    x, y = features(paths), np.array([int(path.parent.name) for path in paths])
    folds = min(5, int(np.bincount(y).min()))
    warnings.simplefilter("ignore", FutureWarning)
    if by_cv and folds > 1:
        model = LogisticRegressionCV(Cs=10, cv=folds, max_iter=2000, scoring="neg_log_loss").fit(x, y)
    else:
        model = LogisticRegression(max_iter=2000).fit(x, y)
    np.savez(out, weight=model.coef_, bias=model.intercept_)


def features(paths: list[Path]) -> np.ndarray:
    """(N, E) of the frozen backbone."""
    import torch

    from vitadapt.data import Examples
    from vitadapt.data.readers.arrays import to_refs
    from vitadapt.nn.setting import Setting
    from vitadapt.training.features import Environment, cached_backbone, pixels_of
    from vitadapt.training.loop import forward_all

    backbone, _ = cached_backbone(BACKBONE, None, "cpu")
    examples = Examples(tuple(to_refs([str(path) for path in paths], "x")), np.zeros(len(paths), dtype=np.int64))
    with torch.inference_mode():
        return forward_all(backbone, pixels_of(examples, backbone, Environment()), Setting(), "features").numpy()


def answers(head: str, made: Path, test: list[Path], known: dict[str, np.ndarray], classes: int) -> np.ndarray:
    """(M, C) what the model in `made` says of the test pictures, in the order of the class numbers."""
    if head == "fit":
        from vitadapt.classifier.model import load_model

        model = load_model(made)
        found = np.zeros((len(test), classes))
        found[:, [int(name) for name in model.classes]] = model.predict_proba([str(path) for path in test])
        return found
    if "x" not in known:
        known["x"] = features(test)
    saved = np.load(made)
    logits = known["x"] @ saved["weight"].T + saved["bias"]
    if logits.shape[1] == 1:
        logits = np.column_stack([np.zeros(len(test)), logits[:, 0]])
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))


def timed(command: list[str]) -> tuple[float, float]:
    """CPU-seconds and seconds of a command and all that it starts."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - start


def run(spec: str, shots: int | None, seed: int, options: argparse.Namespace, done: set[str]) -> None:
    paths, labels, pool, names = write_pictures(spec, options.work / Path(spec).name)
    train, test = split(labels, pool, seed, shots, given=not pool.all())
    test = np.random.default_rng(seed).permutation(test)[: options.most_test]
    known: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "photos")
        for row in train:
            place = folder / str(labels[row])
            place.mkdir(parents=True, exist_ok=True)
            os.symlink(paths[row].resolve(), place / f"{row:05d}.png")
        for head in HEADS:
            key = f"{Path(spec).name}/{shots or 'all'}/{seed}/{head}{'/' + options.name if head == 'fit' else ''}"
            if key in done:
                continue
            made = Path(temporary, f"made-{HEADS.index(head)}")
            command = [sys.executable, "-m", "vitadapt", "fit", str(folder), "--out", str(made), "--no-cache"]
            if head != "fit":
                made = made.with_suffix(".npz")
                command = [sys.executable, __file__, "--baseline", str(folder), str(made), str(int("CV" in head))]
            cpu, seconds = timed([*command, *(options.fit if head == "fit" else [])])
            accuracy, likelihood = scores(
                answers(head, made, [paths[row] for row in test], known, len(names)), labels[test]
            )
            row = {"key": key, "accuracy": accuracy, "nll": likelihood, "cpu": cpu, "seconds": seconds}
            if head == "fit":
                ladder = json.loads((made / "fit.json").read_text())["ladder"]
                row |= {"kept": next(one["name"] for one in ladder if one["kept"]), "images": len(train)}
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def table(rows: list[dict[str, Any]], shots: list[str]) -> None:
    """Means over the seeds, per number of shots, and over the sets."""
    for shot in shots:
        cells: dict[str, dict[str, list[list[float]]]] = {}
        for row in rows:
            name, number, _, head = row["key"].split("/", 3)
            if number == shot:
                cells.setdefault(head, {}).setdefault(name, []).append([row[k] for k in ("accuracy", "nll", "cpu")])
        sets = sorted({name for found in cells.values() for name in found})
        common = [name for name in sets if all(name in found for found in cells.values())]
        print(f"\n{shot} shots: accuracy / NLL / CPU-seconds of " + ", ".join(sets) + "; mean")
        for head, found in cells.items():
            means = [np.mean(found[name], axis=0) for name in common]
            print(f"  {head:24s}" + "  ".join("{:.1f}/{:.3f}/{:.0f}".format(*m) for m in [*means, np.mean(means, 0)]))


def main() -> None:
    if sys.argv[1:2] == ["--baseline"]:
        return logistic(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", help="folders of class folders, or names of data sets")
    parser.add_argument("--shots", nargs="+", default=["2", "5", "20", "all"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--most-test", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "vitadapt-bench-fit"))
    parser.add_argument("--out", type=Path, default=Path("fit.jsonl"))
    parser.add_argument("--name", default="default", help="what these options of fit are called in the table")
    parser.add_argument("--fit", nargs=argparse.REMAINDER, default=[], help="options of `vitadapt fit`, at the end")
    options = parser.parse_args()
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {json.loads(line)["key"] for line in lines}
    for seed in options.seeds:
        for shot in options.shots:
            for spec in options.sets:
                run(spec, None if shot == "all" else int(shot), seed, options, done)
    table([json.loads(line) for line in options.out.read_text().splitlines()], options.shots)
    return None


if __name__ == "__main__":
    main()
