"""Ridge regression on standardised features: one eigendecomposition serves all penalties, targets and left-out groups.

With Z the standardised features (n, d) and Z^T Z = V diag(lambda) V^T, the solution of

    minimise over w, b   ||y - Z w - b||^2 + alpha ||w||^2

is b = mean(y), w = V diag(1 / (lambda + alpha)) V^T Z^T y. Features are centred before anything is multiplied, and sums
are float64: a float32 second moment of activations with a large mean is not even positive definite.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from prefprobe.errors import BadConfig

Floats = npt.NDArray[np.float64]
Names = Sequence[str] | npt.NDArray[np.str_]

ALPHAS: Floats = np.logspace(-1, 5, 10)
"""Penalties tried by default. They are on the scale of the sum of squared errors, as scikit-learn's."""

_BLOCK = 1 << 22
"""Numbers in one working block: features are turned to float64 32 MiB at a time."""


@dataclass(frozen=True, eq=False)
class Decomposition:
    """What ridge needs to know about one feature matrix."""

    X: npt.NDArray[Any] = field(repr=False)
    """(n, d) the features as given, by reference."""
    mean: Floats
    """(d,) column means."""
    scale: Floats
    """(d,) population standard deviations; 1 for a constant column, which so gets no weight."""
    eigenvalues: Floats
    """(r,) the positive eigenvalues of Z^T Z; r <= min(n, d)."""
    basis: Floats = field(repr=False)
    """(d, r) their eigenvectors in feature space."""

    @classmethod
    def of(cls, X: npt.NDArray[Any], row_names: Names | None = None) -> "Decomposition":
        """Decompose `X` (n, d) through the smaller of its d x d second moment and its n x n Gram matrix.

        Raises BadConfig at the first row that holds NaN or an infinity, by its name if `row_names` (n,) are given.
        """
        if X.ndim != 2 or 0 in X.shape:
            raise BadConfig(f"features: expected a matrix of at least one row and column, found shape {X.shape}.")
        n, d = X.shape
        require_finite(X, "the features", row_names)
        # Sums are taken about the first row, so that a constant column comes out as exactly its value, with variance 0.
        pivot = X[0].astype(np.float64)
        mean = pivot + sum((X[rows] - pivot).sum(axis=0) for rows in _blocks(n, d)) / n
        variance = sum(((X[rows] - mean) ** 2).sum(axis=0) for rows in _blocks(n, d)) / n
        # A float64 column may be constant but for its rounding: stretched to unit variance, that would be a feature.
        constant = variance <= (n * np.finfo(np.float64).eps * mean) ** 2
        scale = np.where(constant, 1.0, np.sqrt(variance))
        eigenvalues, basis = (_by_columns if n < d else _by_rows)(X, mean, scale)
        basis[constant] = 0.0
        return cls(X, mean, scale, eigenvalues, basis)

    def standardised(self, rows: Any) -> Floats:
        """(m, d) rows of Z, for an index array or slice of length m."""
        return _standardised(self.X[rows], self.mean, self.scale)

    def coordinates(self, y: Floats) -> Floats:
        """V^T Z^T y, (r, t), for centred targets y (n, t)."""
        n, d = self.X.shape
        moment = sum(self.standardised(rows).T @ y[rows] for rows in _blocks(n, d))
        return np.asarray(self.basis.T @ moment)

    def shrinkage(self, alphas: npt.ArrayLike) -> Floats:
        """1 / (lambda + alpha), (n_alphas, r). Raises BadConfig unless every alpha is positive and finite."""
        penalties = np.atleast_1d(np.asarray(alphas, dtype=np.float64))
        if not (np.isfinite(penalties) & (penalties > 0)).all():
            raise BadConfig(f"alphas: every ridge penalty must be a positive number, found {penalties.tolist()}.")
        return np.asarray(1.0 / (self.eigenvalues + penalties[:, None]))


def fit(decomposition: Decomposition, y: Floats, alphas: npt.ArrayLike = ALPHAS) -> tuple[Floats, Floats]:
    """Ridge weights and intercepts for features as they are, not standardised: predictions are X @ W[a] + b[a].

    y is (n,) or (n, t), finite; returns W (n_alphas, d, t) and b (n_alphas, t), with t = 1 for a single target.
    Raises BadConfig if y is not finite, naming its row.
    """
    targets = y[:, None] if y.ndim == 1 else y
    require_finite(targets, "the target")
    centre = targets.mean(axis=0)
    coordinates = decomposition.coordinates(targets - centre)
    W = decomposition.basis @ (decomposition.shrinkage(alphas)[:, :, None] * coordinates)
    W /= decomposition.scale[:, None]
    return W, centre - decomposition.mean @ W


def predict(X: npt.NDArray[Any], W: Floats, b: Floats) -> Floats:
    """X @ W + b in float64, (n_alphas, n, t), for X (n, d) of any float type and what `fit` returns."""
    n, d = X.shape
    out = np.empty((W.shape[0], n, W.shape[2]))
    for rows in _blocks(n, d):
        out[:, rows] = X[rows].astype(np.float64) @ W + b[:, None, :]
    return out


def group_out_predictions(
    decomposition: Decomposition, y: Floats, groups: npt.NDArray[Any], alphas: npt.ArrayLike = ALPHAS
) -> Floats:
    """Predictions (n_alphas, n) of every row by the ridge that was fitted without the row's group: exact, no refitting.

    With H = 1/n + Z V diag(1 / (lambda + alpha)) V^T Z^T, intercept included, and r = y - H y, the errors of group g
    are e_g = (I - H_gg)^-1 r_g (the block form of the leave-one-out identity, Cook and Weisberg 1982). Left-out fits
    have intercepts of their own; only means and scales of the features stay those of all n rows, which uses no target.

    y and groups are (n,). Raises BadConfig with fewer than two groups, or if y is not finite.
    """
    require_finite(y, "the target")
    names, of = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise BadConfig(f"groups: leaving one group out takes at least two, found {len(names)}.")
    shrinkage = decomposition.shrinkage(alphas)
    centre = y.mean()
    coordinates = decomposition.coordinates((y - centre)[:, None])[:, 0]
    out = np.empty((len(shrinkage), len(y)))
    for group in range(len(names)):
        rows = np.flatnonzero(of == group)
        scores = decomposition.standardised(rows) @ decomposition.basis
        for a, shrink in enumerate(shrinkage):
            residual = y[rows] - centre - scores @ (shrink * coordinates)
            leverage = (scores * shrink) @ scores.T + 1.0 / len(y)
            out[a, rows] = y[rows] - np.linalg.solve(np.eye(len(rows)) - leverage, residual)
    return out


def require_finite(values: npt.NDArray[Any], what: str, row_names: Names | None = None) -> None:
    """Raise BadConfig naming the first row of `values` (n,) or (n, d) that holds NaN or an infinity."""
    matrix = values[:, None] if values.ndim == 1 else values
    for rows in _blocks(*matrix.shape):
        bad = ~np.isfinite(matrix[rows]).all(axis=1)
        if bad.any():
            row = rows.start + int(bad.argmax())
            name = "" if row_names is None else f" (task {row_names[row]})"
            raise BadConfig(
                f"probe: {what} of row {row}{name} is not a finite number; drop the task, or compute this input again."
            )


def _blocks(n: int, width: int) -> Iterator[slice]:
    """Slices of range(n), each of at most _BLOCK numbers where a row is `width` numbers long."""
    step = max(1, _BLOCK // max(1, width))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _standardised(X: npt.NDArray[Any], mean: Floats, scale: Floats) -> Floats:
    Z = X.astype(np.float64)
    Z -= mean
    Z /= scale
    return Z


def _by_rows(X: npt.NDArray[Any], mean: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues and eigenvectors from Z^T Z, summed over blocks of rows."""
    n, d = X.shape
    second = np.zeros((d, d))
    for rows in _blocks(n, d):
        Z = _standardised(X[rows], mean, scale)
        second += Z.T @ Z
    eigenvalues, vectors = np.linalg.eigh(second)
    keep = eigenvalues > 0
    return eigenvalues[keep], vectors[:, keep]


def _by_columns(X: npt.NDArray[Any], mean: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """The same from Z Z^T = U diag(lambda) U^T, summed over blocks of columns: V = Z^T U diag(lambda)^-1/2."""
    n, d = X.shape
    gram = np.zeros((n, n))
    for columns in _blocks(d, n):
        Z = _standardised(X[:, columns], mean[columns], scale[columns])
        gram += Z @ Z.T
    eigenvalues, vectors = np.linalg.eigh(gram)
    # Null directions that rounding leaves with a tiny lambda > 0 do no harm: Z^T u is as small, V does not blow up.
    keep = eigenvalues > 0
    eigenvalues, vectors = eigenvalues[keep], vectors[:, keep] / np.sqrt(eigenvalues[keep])
    basis = np.empty((d, len(eigenvalues)))
    for columns in _blocks(d, n):
        basis[columns] = _standardised(X[:, columns], mean[columns], scale[columns]).T @ vectors
    return eigenvalues, basis
