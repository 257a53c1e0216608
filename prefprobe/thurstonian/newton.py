"""Trust-region Newton with preconditioned conjugate gradients (Steihaug 1983; Nocedal & Wright 2006, section 7.1).

scipy's `trust-ncg` takes no preconditioner and stops on the 2-norm of the gradient; both matter here, since tasks with
5 and with 60 comparisons differ much in curvature.
"""

from collections.abc import Callable

import numpy as np

from prefprobe.thurstonian.likelihood import Point, Posterior
from prefprobe.thurstonian.observations import Floats

_SCORING_STEPS = 5
"""Far from the optimum the exact Hessian is often indefinite: the first steps use the expected information instead."""

_MAX_PRODUCTS = 250

_PATIENCE = 3
"""Steps without a smaller gradient, once the objective's rounding error hides their effect, before giving up."""


def minimise(posterior: Posterior, start: Floats, target: float, max_iterations: int) -> tuple[Point, int]:
    """Walk from `start` (2, n) until no entry of the gradient exceeds `target`, or until rounding hides all progress.

    Returns the last point and the number of Newton steps tried (<= `max_iterations`). The objective never rises by more
    than its rounding error; negative curvature is followed to the edge of the trust region.
    """
    point = Point(posterior, start)
    size = _size(point.gradient, point)
    radius, stalled = size, 0
    curvature, images = point.scoring_product, list[Floats]()
    for iteration in range(max_iterations):
        if np.abs(point.gradient).max() <= target:
            return point, iteration
        step, length, predicted = _step(point, curvature, radius, images)
        with np.errstate(over="ignore", invalid="ignore"):  # a step too far gives inf or NaN, which is refused below
            trial = Point(posterior, point.theta + step)
        # Near the optimum both reductions drown in the rounding error of the value; the offset takes their ratio to 1.
        rounding = 32.0 * float(np.finfo(np.float64).eps) * max(1.0, abs(point.value))
        ratio = (point.value - trial.value + rounding) / (predicted + rounding)
        if not ratio > 0.1:  # so that a NaN is refused
            radius = 0.25 * length
            continue
        size, before = _size(trial.gradient, trial), size
        stalled = stalled + 1 if predicted <= rounding and size > 0.5 * before else 0
        if stalled == _PATIENCE:
            return point, iteration + 1
        if ratio < 0.25:
            radius = 0.25 * length
        elif ratio > 0.75:
            radius = max(radius, 2.0 * length)
        point = trial
        curvature, images = point.scoring_product if iteration + 1 < _SCORING_STEPS else point.hessian_product, []
    return point, max_iterations


def _size(gradient: Floats, point: Point) -> float:
    """The norm of a gradient that conjugate gradients reduce: that of the step it would cause by itself."""
    return float(np.sqrt(np.sum(gradient * point.precondition(gradient))))


def _step(
    point: Point, curvature: Callable[[Floats], Floats], radius: float, images: list[Floats]
) -> tuple[Floats, float, float]:
    """Minimise the quadratic model within `radius`: the step, its length and the decrease that the model predicts.

    Lengths are in the norm of the preconditioner, in which conjugate gradients only ever move outwards. A smaller radius
    after a refused step follows the same directions and ends sooner: `images` keeps their products with the curvature.
    """
    step = np.zeros_like(point.gradient)
    residual = point.gradient
    scaled = point.precondition(residual)
    direction = -scaled
    rz = float(np.sum(residual * scaled))
    # Solving more exactly as the gradient vanishes keeps the outer convergence superlinear.
    enough = rz * min(0.01, np.sqrt(rz))
    step2, inner, direction2 = 0.0, 0.0, rz
    for k in range(_MAX_PRODUCTS):
        if k == len(images):
            images.append(curvature(direction))
        image = images[k]
        bend = float(np.sum(direction * image))
        alpha = rz / bend if bend > 0.0 else 0.0
        step2_next = step2 + 2.0 * alpha * inner + alpha**2 * direction2
        outside = bend <= 0.0 or step2_next >= radius**2
        if outside:
            room = radius**2 - step2
            alpha = room / (inner + float(np.sqrt(inner**2 + direction2 * room)))
            step2_next = radius**2
        step, residual = step + alpha * direction, residual + alpha * image
        scaled = point.precondition(residual)
        rz_next = float(np.sum(residual * scaled))
        if outside or rz_next <= enough:
            step2 = step2_next
            break
        beta = rz_next / rz
        direction = beta * direction - scaled
        step2, inner, direction2 = step2_next, beta * (inner + alpha * direction2), rz_next + beta**2 * direction2
        rz = rz_next
    return step, float(np.sqrt(step2)), -0.5 * float(np.sum(step * (point.gradient + residual)))
