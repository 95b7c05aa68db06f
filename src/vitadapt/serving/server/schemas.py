"""Requests and answers, as the OpenAPI description shows them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Top = Annotated[int, Field(ge=1, le=1000, description="Classes per image, the most probable first.")]
Threshold = Annotated[float | None, Field(ge=0, le=1, description="Below this probability the class is null: unsure.")]
Refuse = Annotated[
    float | None,
    Field(ge=0, le=1, description="Share of usual images that may be called unknown, 0.05; 0: none."),
]
Conformal = Annotated[
    float | None, Field(ge=0, le=1, description="Also answer with sets of classes that hold the right one so often.")
]


class Options(BaseModel):
    """The options of the query, in a body."""

    model_config = ConfigDict(extra="forbid")
    top: Top | None = None
    threshold: Threshold = None
    refuse: Refuse = None
    conformal: Conformal = None


class Encoded(Options):
    """Images in base64 (a data: URI is taken, too), and the options that the query has, too."""

    image: str | None = Field(None, description="One image.")
    images: list[str] | None = Field(None, description="Several.")


class Row(BaseModel):
    """The prediction for one image: the same as `vitadapt predict --json`.

    A model of several labels per image adds `labels`, name and probability of each that reaches its threshold.
    """

    model_config = ConfigDict(extra="allow")
    image: str = Field(description="The file name that was sent, or the image's number.")
    class_: str | None = Field(alias="class", description="The most probable class, or null when unsure.")
    probability: float
    top: dict[str, float] = Field(description="Class and probability, the most probable first.")
    unknown: bool | None = Field(description="Unlike the training images? null: this model cannot tell.")
    typicality: float | None = Field(description="Share of images left out of training that were at least as unlike.")


class Predicted(BaseModel):
    """The answers in the order of the images, all by one version of the model."""

    model: str
    version: str = Field(description="Changes with the adapter's content.")
    answers: list[Row]


class Heat(BaseModel):
    """Where the model looks: `heat` has a row of numbers 0 to 1 for each row of patches."""

    model: str
    version: str
    answer: str
    probability: float
    explained: str | None = Field(description="The class whose evidence is shown; null where the kind knows none.")
    explained_probability: float
    heat: list[list[float]]


class About(BaseModel):
    """One model."""

    name: str
    version: str
    classes: list[str]
    backbone: str
    image_size: int
    method: str
    head: str
    bytes: int
    licence: str
    base_licence: str


class Models(BaseModel):
    """What is served, and which files of the folder cannot be."""

    models: list[About]
    problems: dict[str, str]


class Removed(BaseModel):
    """The name that is no longer served."""

    removed: str


class Health(BaseModel):
    """Is it alive, is it ready?"""

    status: str


class Problem(BaseModel):
    """A code for programs and one line for people."""

    code: str
    message: str


class Error(BaseModel):
    """Every error answer."""

    error: Problem
