"""The model card: what a model is for, how good it is and how it came about, as the Hugging Face hub reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from .figure import clean
from .fitted_model import Fitted

MOST_CLASSES = 100
SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&])")


def model_card(model: Fitted, library: str = "vitadapt") -> str:
    """Markdown with YAML metadata in front. No name of a class or a file can end the metadata or become markup.

    library: which one loads the files beside the card, "vitadapt" or "transformers"; the hub's widget asks it.
    """
    body = [
        f"# {_plain(model.name)}",
        *_about(model),
        *_results(model),
        *_training(model),
        *_use(library),
        *_limits(model),
    ]
    return "\n".join([*_metadata(model, library), *body]).rstrip() + "\n"


def _metadata(model: Fitted, library: str) -> Iterator[str]:
    """YAML is a superset of JSON: every value is written as JSON."""
    yield "---"
    if model.licence:
        yield f"license: {_json(model.licence)}"
    if model.base_model:
        yield f"base_model: {_json(model.base_model)}"
    yield f"library_name: {library}"
    yield "pipeline_tag: image-classification"
    tags = ["image-classification", "vision-transformer", "parameter-efficient-fine-tuning", "vitadapt"]
    yield f"tags: {_json([*tags, model.method.split(':')[0]])}"
    yield f"metrics: {_json([model.metric])}"
    if model.score is not None:
        split = "cross-validation" if model.cross_measured else "held-out"
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": f"own pictures ({model.tested})", "type": "custom", "split": split},
            "metrics": [{"type": model.metric, "value": round(model.score / 100, 4)}],
        }
        yield f"model-index: {_json([{'name': clean(model.name, 90), 'results': [result]}])}"
    yield "---\n"


def _about(model: Fitted) -> Iterator[str]:
    count = len(model.classes)
    size = [f"{model.trained:,} trained parameters"] if model.trained is not None else []
    size += [f"{model.size / 1000:,.0f} kB"] if model.size else []
    what = f"Gives pictures any of {count} labels" if model.thresholds else f"Sorts pictures into {count} classes"
    yield f"\n{what}. It is a small adapter ({', '.join([_code(model.method), *size])})"
    yield f"on the frozen backbone {_code(model.backbone)} at {model.image_size} x {model.image_size} pixels.\n"
    names = [_plain(name) for name in model.classes[:MOST_CLASSES]]
    more = f" and {count - MOST_CLASSES} more" if count > MOST_CLASSES else ""
    yield f"**Classes:** {', '.join(names)}{more}.\n"


def _results(model: Fitted) -> Iterator[str]:
    yield "## How good it is\n"
    if model.score is None or model.interval is None:
        yield "No pictures were held out, so nothing is known of new ones.\n"
    else:
        low, high = model.interval
        if model.thresholds:
            yield f"**{model.score:.1f} %** mean average precision on {len(model.held_out)} {model.tested}"
        else:
            yield f"**{model.score:.1f} %** of {len(model.held_out)} {model.tested} are answered rightly"
        yield f"(95 % interval {low:.1f} to {high:.1f} %). {model.measure}\n"
        if model.balanced is not None:
            yield f"The mean over the classes, which are uneven, is **{model.balanced:.1f} %** (balanced accuracy).\n"
    if model.candidates:
        yield "| step | cross-validated | measured | trained parameters | |"
        yield "|:-----|----------------:|---------:|-------------------:|:--|"
    for candidate in model.candidates:
        crossed, held, trained, _ = candidate.texts(" %")
        yield f"| {_plain(candidate.name)} | {crossed} | {held} | {trained} | {'kept' if candidate.kept else ''} |"
    chosen = "What was kept was chosen by cross-validation. " if model.compared else ""
    yield f"\n{chosen}`report.html` shows the confusions and the mistakes.\n"


def _training(model: Fitted) -> Iterator[str]:
    yield "## How it was made\n"
    few, many = (min(model.counts), max(model.counts)) if len(model.counts) else (0, 0)
    each = f"{few}" if few == many else f"{few} to {many}"
    yield f"- {model.pictures:,} training pictures, {each} per class"
    yield f"- method {_code(model.method)}, backbone {_code(model.backbone)}"
    if model.folds is not None:
        yield f"- {model.folds}-fold cross-validation" + (f", seed {model.seed}" if model.seed is not None else "")
    if model.created:
        yield f"- made {_plain(model.created)}"
    if model.versions:
        yield "- " + ", ".join(f"{_plain(name)} {_plain(value)}" for name, value in model.versions.items())
    for note in model.notes:
        yield f"- {_plain(note)}"
    if model.command:
        yield f"\n{_block(model.command, 'sh')}\n"


def _use(library: str) -> Iterator[str]:
    yield "## How to use it\n"
    if library == "transformers":
        lines = (
            "from transformers import pipeline",
            'classify = pipeline("image-classification", model="FOLDER-OF-THIS-MODEL")',
            'classify("picture.jpg")',
        )
        yield _block("\n".join(lines), "python") + "\n"
        return
    yield _block("pip install vitadapt\nvitadapt predict FOLDER-OF-THIS-MODEL picture.jpg", "sh") + "\n"
    lines = (
        "from vitadapt import ImageClassifier",
        'model = ImageClassifier.load("FOLDER-OF-THIS-MODEL")',
        'model.predict(["picture.jpg"])',
    )
    yield _block("\n".join(lines), "python") + "\n"


def _limits(model: Fitted) -> Iterator[str]:
    yield "## What it is for, and what not\n"
    yield "- It is meant for pictures like those it was made from: the same kind of camera, light, angle and subject."
    yield "  The accuracy above holds for such pictures and for no others."
    if model.thresholds:
        yield "- A picture gets every label whose probability reaches its threshold, which may be none. The thresholds"
        yield "  had the best F1 in cross-validation; choose others where a missing label costs more than a wrong one."
    elif model.refuses:
        yield "- `vitadapt predict` calls pictures unknown that are unlike the training pictures. It misses some of"
        yield "  them, and it refuses some usual ones:"
    else:
        yield "- It always answers with one of its classes, also when a picture shows none of them. Its probability"
        yield "  tells how sure it is; refuse answers below a threshold where a wrong one costs more than none."
    for line in model.limits:
        yield f"- {_plain(line)}"
    few = [name for name, count in zip(model.classes, model.counts, strict=True) if count < 10]
    if few:
        named = ", ".join(_plain(name) for name in few[:10]) + (f" and {len(few) - 10} more" if len(few) > 10 else "")
        yield f"- Fewer than ten training pictures: {named}. Expect more mistakes there."
    yield "- Nobody has examined it for fairness between groups of people, nor for safety. Do not use it for decisions"
    yield "  about people."
    yield "\n## Licence\n"
    adapter, base = _plain(model.licence) or "not stated", _plain(model.base_licence) or "see its source"
    yield f"This adapter: {adapter}. Its backbone: {base}."
    yield "The backbone's weights are not part of this model; their licence applies wherever it runs."


def _json(value: object) -> str:
    return clean(json.dumps(value, ensure_ascii=False), 10**6)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return SPECIAL.sub(r"\\\1", clean(text, 600))


def _code(text: str) -> str:
    return f"`{clean(text, 200).replace('`', chr(0x2BC))}`"


def _block(text: str, language: str) -> str:
    """Lines of code, in a fence longer than any inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(clean(line, 1000) for line in text.splitlines())
    return f"{fence}{language}\n{lines}\n{fence}"
