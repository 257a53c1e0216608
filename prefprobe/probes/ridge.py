"""Ridge regression on standardised features: one second moment serves all penalties, targets and left-out groups.

With Z the standardised features (n, d), the solution of

    minimise over w, b   ||y - Z w - b||^2 + alpha ||w||^2

is b = mean(y), w = (Z^T Z + alpha I)^-1 Z^T (y - b) = Z^T (Z Z^T + alpha I)^-1 (y - b): a Cholesky factor of the smaller of
the two for each penalty, which takes a fraction of the time of an eigendecomposition. Features are centred before anything
is multiplied, and sums are float64: a float32 second moment of activations with a large mean is not even positive definite.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dpotrf, dpotrs

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
    """(d,) population standard deviations; infinite for a constant column, whose Z is 0 and which so gets no weight."""
    second: Floats = field(repr=False)
    """(d, d) Z^T Z if there are more rows than columns, else (n, n) Z Z^T."""

    @classmethod
    def of(cls, X: npt.NDArray[Any], row_names: Names | None = None) -> "Decomposition":
        """Standardise `X` (n, d), and sum up the smaller of its d x d second moment and its n x n Gram matrix.

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
        scale = np.where(constant, np.inf, np.sqrt(variance))
        return cls(X, mean, scale, (_by_columns if n <= d else _by_rows)(X, mean, scale))

    def reordered(self, order: npt.NDArray[np.int64]) -> "Decomposition":
        """The same of X[order], for a permutation of the rows (n,)."""
        second = self.second[np.ix_(order, order)] if self.by_rows else self.second
        return replace(self, X=self.X[order], second=second)

    @property
    def by_rows(self) -> bool:
        """Whether `second` is Z Z^T."""
        return bool(self.X.shape[0] <= self.X.shape[1])

    def standardised(self, rows: Any) -> Floats:
        """(m, d) rows of Z, for an index array or slice of length m."""
        return _standardised(self.X[rows], self.mean, self.scale)

    def factor(self, alpha: float) -> Floats:
        """Lower Cholesky factor of `second` + alpha I, in Fortran's order; above its diagonal stands what is not read.

        Raises BadConfig unless alpha is a positive number, large enough for the matrix to be positive definite in float64.
        """
        if not (np.isfinite(alpha) and alpha > 0):
            raise BadConfig(f"alphas: every ridge penalty must be a positive number, found {alpha}.")
        matrix = np.array(self.second, order="F")
        matrix[np.diag_indices(len(matrix))] += alpha
        factor, failed = dpotrf(matrix, lower=1, clean=0, overwrite_a=1)
        if failed:
            raise BadConfig(f"alphas: {alpha} is lost in the rounding of these features' second moment; raise it.")
        return np.asarray(factor)

    def moment(self, y: Floats) -> Floats:
        """Z^T y, (d, t), for y (n, t)."""
        return np.asarray(sum(self.standardised(rows).T @ y[rows] for rows in _blocks(*self.X.shape)))


def fit(decomposition: Decomposition, y: Floats, alphas: npt.ArrayLike = ALPHAS) -> tuple[Floats, Floats]:
    """Ridge weights and intercepts for features as they are, not standardised: predictions are X @ W[a] + b[a].

    y is (n,) or (n, t), finite; returns W (n_alphas, d, t) and b (n_alphas, t), with t = 1 for a single target.
    Raises BadConfig if y is not finite, naming its row.
    """
    targets = y[:, None] if y.ndim == 1 else y
    require_finite(targets, "the target")
    centre = targets.mean(axis=0)
    factors = (decomposition.factor(float(alpha)) for alpha in np.atleast_1d(alphas))
    about = targets - centre if decomposition.by_rows else decomposition.moment(targets - centre)
    W = np.stack([dpotrs(factor, about, lower=1)[0] for factor in factors])
    if decomposition.by_rows:
        a, n, t = W.shape
        W = decomposition.moment(W.transpose(1, 0, 2).reshape(n, a * t)).reshape(-1, a, t).transpose(1, 0, 2)
    W = W / decomposition.scale[:, None]
    return W, centre - decomposition.mean @ W


def predict(X: npt.NDArray[Any], W: Floats, b: Floats) -> Floats:
    """X @ W + b in float64, (n_alphas, n, t), for X (n, d) of any float type and what `fit` returns."""
    n, d = X.shape
    out = np.empty((W.shape[0], n, W.shape[2]))
    for rows in _blocks(n, d):
        out[:, rows] = X[rows].astype(np.float64) @ W + b[:, None, :]
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


def _by_rows(X: npt.NDArray[Any], mean: Floats, scale: Floats) -> Floats:
    """Z^T Z, summed over blocks of rows."""
    n, d = X.shape
    second = np.zeros((d, d))
    for rows in _blocks(n, d):
        Z = _standardised(X[rows], mean, scale)
        second += Z.T @ Z
    return second


def _by_columns(X: npt.NDArray[Any], mean: Floats, scale: Floats) -> Floats:
    """Z Z^T, summed over blocks of columns."""
    n, d = X.shape
    gram = np.zeros((n, n))
    for columns in _blocks(d, n):
        Z = _standardised(X[:, columns], mean[columns], scale[columns])
        gram += Z @ Z.T
    return gram
