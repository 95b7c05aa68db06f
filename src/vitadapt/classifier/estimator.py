"""A scikit-learn classifier of images: a frozen vision transformer, adapted by training a few thousand numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.base import ClassNamePrefixFeaturesOutMixin as NamedFeatures
from sklearn.exceptions import NotFittedError

from ..data import Examples
from ..methods import KAdaptation
from ..methods.spec import parse_method
from ..metrics.conformal import typicality
from ..metrics.several_labels import decided
from ..nn.head import Classifier
from ..nn.head_spec import HeadSpec
from ..nn.setting import Setting
from ..nn.surgery import Method
from ..training.adapter_file import ADAPTER, adapter_bytes
from ..training.config import TrainConfig
from ..training.cross_validation import train_final
from ..training.features import Environment, cached_backbone, pixels_of
from ..training.recipe import Recipe, recipe_for
from ..training.task import Task, adapter_info, make_task
from ..utils.errors import ConfigError, DataError, NotApplicable, VitadaptError, WeightsError
from ..utils.fields import build
from ..utils.files import write_atomic
from .answer import CANNOT, can_refuse, is_unknown
from .compare_backbones import ranked
from .embedding import embedder_of
from .estimator_labels import label_names, read_labels
from .model import Model, absolute_backbone, image_refs, load_model, training_summary
from .novelty import RATE


class ImageClassifier(NamedFeatures, TransformerMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Learns classes of images from few examples.

    X is a sequence of paths, PIL images or arrays, a uint8 array (N, H, W, 3) or a tensor (N, 3, H, W); `predict` and
    `predict_proba` also take one path, PIL image or array (H, W, 3), and answer with one row. y are strings or
    integers; or, where an image may have several labels, 0 and 1 in (N, C), as an array or a table whose columns name
    the classes. Fields of the method and of the recipe are parameters too: `method__rank`, `recipe__epochs`.

    backbone: a name, or several: then `fit` compares them by cross-validation of frozen features and a head in closed
    form, takes the best, and says what it found in `comparison_` and `backbone_`, and in the file that `save` writes.
    method: a method, or its text, "lora:rank=8". image_size: pixels; None for the backbone's own. recipe: None for the
    one that suits the method. seed: of initialisation and order. cache: folder for decoded images and features; None
    keeps them in memory.
    """

    def __init__(
        self,
        backbone: str | Sequence[str] = "dinov2-s14-offline",
        method: Method | str = KAdaptation(),  # noqa: B008 - frozen
        *,
        image_size: int | None = None,
        recipe: Recipe | None = None,
        seed: int = 0,
        device: str = "cpu",
        precision: str = "fp32",
        cache: Path | str | None = None,
    ) -> None:
        self.backbone = backbone
        self.method = method
        self.image_size = image_size
        self.recipe = recipe
        self.seed = seed
        self.device = device
        self.precision = precision
        self.cache = cache

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor; with `deep` also the fields of method and recipe, after two underscores."""
        params: dict[str, Any] = super().get_params(deep=False)
        if deep:
            for name in _PARTS:
                fields = getattr(params[name], "__dataclass_fields__", {})
                params |= {f"{name}__{field}": getattr(params[name], field) for field in fields}
        return params

    def set_params(self, **params: Any) -> ImageClassifier:
        """Change arguments; raises ValueError for a name that is none."""
        own = {name: value for name, value in params.items() if "__" not in name}
        super().set_params(**own)
        for name in _PARTS:
            nested = {key.removeprefix(f"{name}__"): v for key, v in params.items() if key.startswith(f"{name}__")}
            if not nested:
                continue
            value: Any = self._method() if name == "method" else self.recipe or recipe_for("fixed", self._method())
            strange = sorted(nested.keys() - getattr(value, "__dataclass_fields__", {}).keys())
            if strange:
                raise ValueError(f"{name} {value} has no field {strange[0]!r}; see get_params()")
            setattr(self, name, replace(value, **nested))
        left = sorted(key for key in params if "__" in key and key.split("__")[0] not in _PARTS)
        if left:
            raise ValueError(f"invalid parameter {left[0]!r}; see get_params()")
        return self

    def fit(self, X: Any, y: Any) -> ImageClassifier:
        """Train on images and their labels.

        Raises DataError for what is not images, or fewer than two classes, and ValueError for labels that are missing,
        or not one per image.
        """
        refs, labels = image_refs(X, "X"), read_labels(y)
        if len(refs) != len(labels):
            raise ValueError(f"X has {len(refs)} images and y has {len(labels)} labels; give one label per image")
        if not len(refs):
            raise ValueError("X has no images; give at least one per class")
        if labels.ndim == 2:
            self.classes_, numbers = label_names(y, labels), labels
        else:
            self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(f"y has one class only ({self.classes_[0]!r}); at least two are needed")
        examples = Examples(refs, numbers.astype(np.int64))
        self.backbone_, compared = self._choose(examples)
        task = self._task(examples)
        trained = train_final(task, task.recipe)
        training = training_summary(task, trained, labels=self.classes_.dtype.kind) | compared
        classes, backbone = tuple(map(str, self.classes_.tolist())), absolute_backbone(self.backbone_)
        thresholds = (0.5,) * len(classes) if labels.ndim == 2 else ()
        info = adapter_info(task, classes, training, backbone=backbone, thresholds=thresholds)
        self._set_model(Model(trained.model, info, Path(), Setting(self.device, self.precision)))
        return self

    def _set_model(self, model: Model) -> None:
        self.model_ = model
        self.n_features_in_ = 3 * model.info.image_size**2
        self._n_features_out = model.classifier.backbone.features

    def _choose(self, examples: Examples) -> tuple[str, dict[str, Any]]:
        """The name of the backbone to use, and what is recorded where it was chosen among several.

        Raises ConfigError for no name or a class with one image, and WeightsError when no backbone can be had.
        """
        if isinstance(self.backbone, str):
            return self.backbone, {}
        if not len(self.backbone):
            raise ConfigError("backbone names none; give at least one, e.g. backbone=['dinov2-s14-offline']")
        setting = Setting(self.device, self.precision)
        self.comparison_ = ranked(
            examples, len(self.classes_), self.backbone, setting, True, self.seed, self.image_size
        )
        best = self.comparison_[0]
        if best.accuracy is None:
            raise WeightsError("; ".join(f"{one.backbone}: {one.note}" for one in self.comparison_))
        return best.backbone, {"compared": {one.backbone: one.note or one.accuracy for one in self.comparison_}}

    def _task(self, examples: Examples) -> Task:
        setting = Setting(self.device, self.precision)
        environment = Environment(cache=Path(self.cache) if self.cache else None, setting=setting)
        config = TrainConfig.of(
            self.backbone_,
            self._method(),
            recipe=self.recipe,
            seed=self.seed,
            image_size=self.image_size,
            precision=cast(Any, self.precision),
        )
        if config.head.start == "text":
            raise ConfigError(
                "this method makes its head of class names; use `vitadapt fit` on a folder of images, or a method that "
                "needs none, such as LinearProbe()"
            )
        backbone, _ = cached_backbone(self.backbone_, self.image_size, self.device)
        images = pixels_of(examples, backbone, environment)
        if examples.multilabel and not config.method.several_labels:
            raise ConfigError("this method gives one label per image; use another for several, such as LinearProbe()")
        metric = "11-point-map" if examples.multilabel else "accuracy"
        return make_task(config, images, examples.labels, len(self.classes_), environment, metric=metric)

    def _method(self) -> Method:
        """The method; "lora:rank=8" is one as text. Raises UnknownName or ConfigError."""
        return parse_method(self.method) if isinstance(self.method, str) else self.method

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """(N, C) probabilities, in the order of `classes_`. Raises NotFittedError and DataError."""
        return self._model().predict_proba(X)

    def predict(self, X: Any, unknown: Any = None, refuse: float = RATE) -> npt.NDArray[Any]:
        """(N,) labels as they were given to `fit`, or (N, C) of 0 and 1. Raises NotFittedError and DataError.

        unknown: what to answer, instead of a label, for images that are unlike the training images (None: nothing is
        refused); refuse: the share of usual images that may be. Needs a model of `vitadapt fit`: see `typicality`.
        """
        if unknown is None:
            probabilities = self.predict_proba(X)
            if thresholds := self._model().info.thresholds:
                return decided(probabilities, thresholds).astype(np.int64)
            return np.asarray(self.classes_[probabilities.argmax(axis=1)])
        model = self._model()
        probabilities, novelty = model.scores(model.pixels(image_refs(X, "images")))
        refused = is_unknown(model.novelty, self._typicality(novelty), refuse)
        labels = self.classes_[probabilities.argmax(axis=1)].astype(object)
        labels[refused] = unknown
        return np.asarray(labels)

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """(N, E) features of the images: what the adapted backbone hands to the head. As `predict_proba`."""
        return embedder_of(self._model()).features(X)

    def typicality(self, X: Any) -> npt.NDArray[np.float64]:
        """(N,) the share of images left out of training that were at least as unlike: small for strangers.

        Of usual images a share of at most s has a value up to s. Raises NotFittedError, DataError, and NotApplicable
        for a model that knows nothing of it; `load` one that `vitadapt fit` made with at least two images per class.
        """
        model = self._model()
        return self._typicality(model.scores(model.pixels(image_refs(X, "images")))[1])

    def _typicality(self, novelty: np.ndarray | None) -> npt.NDArray[np.float64]:
        known = self._model().novelty
        if novelty is None or known is None or not can_refuse(known):
            raise NotApplicable(CANNOT)
        return typicality(known.left_out_scores(), novelty)

    @property
    def classifier_(self) -> Classifier:
        """The trained module: uint8 images (B, 3, S, S) -> logits (B, C). Raises NotFittedError."""
        return self._model().classifier

    @property
    def head_(self) -> HeadSpec:
        """What its head is. Raises NotFittedError."""
        return self._model().info.head

    def save(self, path: Path | str) -> Path:
        """Write the adapter file: to `path` if it ends in .safetensors, else into that folder -> its path.

        Raises NotFittedError and StorageError.
        """
        model, target = self._model(), Path(path)
        target = target if target.suffix == ".safetensors" else target / ADAPTER
        write_atomic(target, adapter_bytes(model.classifier, model.info))
        return target

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu", backbone: str | None = None) -> ImageClassifier:
        """What `save` or `vitadapt fit` wrote, ready to predict, with its seed and recipe.

        backbone: as for `load_model`. Raises WeightsError.
        """
        model = load_model(path, device, backbone=backbone)
        info, training = model.info, model.info.training
        try:
            recipe = build(Recipe, training["recipe"], "recipe") if "recipe" in training else None
        except VitadaptError as error:
            raise WeightsError(f"{path}: {error}; a newer vitadapt may know it") from error
        kind = {"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_}.get(training.get("labels", "U"))
        seed = training.get("seed", 0)
        loaded = cls(info.backbone, info.method, image_size=info.image_size, recipe=recipe, seed=seed, device=device)
        classes = np.array(info.classes)
        loaded.backbone_ = info.backbone
        loaded.classes_ = classes if kind is None else classes == "True" if kind is np.bool_ else classes.astype(kind)
        loaded._set_model(model)
        return loaded

    def _model(self) -> Model:
        if not hasattr(self, "model_"):
            raise NotFittedError("this ImageClassifier is not fitted yet; call fit(images, labels) first")
        return self.model_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.non_deterministic = False
        return tags


_PARTS = ("method", "recipe")
