"""A diagnosis as plain data: what explains a model's fall. Renderers read only this."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = "1.0"
TARGET = "target"
"""What the model is called in the matrix of transfers."""


class Plain(BaseModel):
    """Immutable, closed to unknown fields, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Line(Plain):
    """One image along FGSM's direction. For each budget: the true loss, the first-order line for the step as the box
    clips it, and the unclipped line loss + eps * dual norm of the gradient. gap: true minus clipped line at the
    declared budget. curvature: the second derivative along the step, per unit of l2 length, at the image. top: the
    largest eigenvalue of the Hessian in size, estimated from below by power iteration (None where it was not tried).
    """

    index: int
    eps: tuple[float, ...]
    true: tuple[float, ...]
    clipped: tuple[float, ...]
    unclipped: tuple[float, ...]
    gap: float
    curvature: float
    top: float | None


class FirstOrder(Plain):
    """All lines, and over the set: images whose loss FGSM lowered, success of one step and of ten at every budget, the
    smallest of these budgets at which ten steps break a point more (None: nowhere).
    """

    loss: str
    lines: tuple[Line, ...]
    lowered: tuple[int, ...]
    eps: tuple[float, ...]
    one_step: tuple[float, ...]
    ten_steps: tuple[float, ...]
    stops_paying: float | None


class Layer(Plain):
    """A layer's Lipschitz constant in l2, as an operator on inputs of the size it really sees."""

    name: str
    kind: str
    norm: float


class Resolution(Plain):
    """Mean norms of the input gradient of the label's lead over the strongest rival, with the images resized by
    `scale`; `blocks`: of a model of one size at its own images, by an attacker whose pixels are that coarse.
    """

    scale: float
    dimension: int
    l1: float
    l2: float
    blocks: bool = False


class Sensitivity(Plain):
    """lower: per image, the largest l2 gradient norm of a lead f_y - f_j seen in the ball: the local Lipschitz constant
    of the margin is at least that. upper: sqrt(2) * product of the layers' norms bounds it everywhere; for a model that
    is no chain of layers, what its graph of operations gives (None, with `why`, where one of them is not known). ratio:
    upper by the largest lower. stretches: the layer with the largest norm. growth: the power of the input dimension
    that the gradient's l1 norm grows with.
    """

    lower: tuple[float, ...]
    layers: tuple[Layer, ...]
    upper: float | None
    ratio: float | None
    stretches: str | None
    why: str
    resolutions: tuple[Resolution, ...]
    growth: float | None = None


class Saturation(Plain):
    """Share of an elementwise layer's units whose slope is zero, over all images. name: of the layer, or of the code in
    a `forward` between two layers.
    """

    name: str
    kind: str
    share: float


class Health(Plain):
    """Shares of images whose cross-entropy gradient is zero, only tiny numbers (below 1e-30) or not finite, or whose
    softmax is exactly 1 in float32; robust accuracy under 20 steps on each loss and the loss to use; saturated
    activations; mean cosine of the gradients of an image and a random neighbour in the ball.
    """

    zero: float
    underflow: float
    overflow: float
    saturated_softmax: float
    robust_by_loss: dict[str, float]
    recommended_loss: str
    activations: tuple[Saturation, ...]
    agreement: float


class Bias(Plain):
    """The parameter gradient at FGSM's examples beside the one at PGD's: cosine, and the ratio of their norms."""

    cosine: float
    relative_norm: float


class Landscape(Plain):
    """Loss and predicted class in a plane through an image: rows along `second`, columns along `first`, both from
    -reach to reach in units of the budget.
    """

    index: int
    first: str
    second: str
    reach: float
    loss: tuple[tuple[float, ...], ...]
    classes: tuple[tuple[int, ...], ...]


class Failure(Plain):
    """Where perturbations act (mean absolute change per pixel, channels averaged), which class turns into which, and
    the median confidence of the wrong answer.
    """

    where: tuple[tuple[float, ...], ...]
    turned: tuple[tuple[int, int, int], ...]
    confidence: float | None
    broken: int


class Transfer(Plain):
    """Share of images the target had right that adversarials made on a surrogate fool, under the same budget."""

    surrogate: str
    target: str
    attack: str
    success: float
    images: int


class Diagnosis(Plain):
    """Everything `sp.diagnose` knows."""

    schema_version: str = SCHEMA_VERSION
    sparring_version: str
    model: str
    threat: str
    images: int
    seed: int
    seconds: float
    clean_accuracy: float
    first_order: FirstOrder
    sensitivity: Sensitivity
    health: Health
    bias: Bias | None
    failure: Failure
    landscapes: tuple[Landscape, ...]
    transfer: tuple[Transfer, ...]
    blocked: tuple[str, ...]
    notes: tuple[str, ...]


class Share(Plain):
    """A proportion with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


class ModelRow(Plain):
    """One of several models. clean, robust: as its audit found them; doubts: the codes of its findings that say that
    robust can't be believed; remedied: of those that would, but for what the audit did. steepness: the median over
    images of the largest gradient norm of a lead f_y - f_j there (None, like others: not to be seen);
    layer_norms: the product of its layers' l2 norms (None where it is no chain of known ones); flat_units: the largest
    share of units at zero slope of any activation, that of layer `flattest`; milliseconds: of one image in a batch;
    passes: what the attacks spent on an image.
    """

    name: str
    parameters: int | None
    multiplications: float | None
    milliseconds: float
    clean: Share
    robust: Share
    doubts: tuple[str, ...]
    remedied: tuple[str, ...]
    steepness: float | None
    layer_norms: float | None
    zero_gradients: float | None
    flat_units: float | None
    flattest: str | None
    passes: float


class Models(Plain):
    """Several models on the same images under the same threat."""

    schema_version: str = SCHEMA_VERSION
    threat: str
    images: int
    effort: str
    rows: tuple[ModelRow, ...]
