"""95 % intervals that need no seed: a jackknife's standard error, and Student's t; correlations on Fisher's scale."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Floats = npt.NDArray[np.float64]


class Interval(TypedDict):
    """An estimate and its 95 % bounds; all but `value` are None if too little was measured for an interval."""

    value: float
    low: float | None
    high: float | None
    se: float | None
    """Standard error on the scale on which the interval is symmetric: Fisher's z of a correlation, else `value`'s own."""
    df: float | None
    """Degrees of freedom of Student's t: the bounds lie at its .975 quantile times `se`."""


def around(value: float, se: float | None, df: float | None) -> Interval:
    """Value ± t se; without bounds where there is no standard error or not one degree of freedom."""
    if se is None or df is None or df < 1 or not np.isfinite(se):
        return Interval(value=value, low=None, high=None, se=None, df=None)
    reach = float(stdtrit(df, 0.975)) * se
    return Interval(value=value, low=value - reach, high=value + reach, se=float(se), df=float(df))


def around_r(r: float, se: float | None, df: float | None) -> Interval:
    """The same for a correlation: tanh(atanh(r) ± t se), where `se` is the standard error of atanh(r)."""
    found = around(float(fisher(r)), se, df)
    if found["low"] is None or found["high"] is None:
        return {**found, "value": r}
    low, high = float(np.tanh(found["low"])), float(np.tanh(found["high"]))
    return {**found, "value": r, "low": min(low, r), "high": max(high, r)}  # z of 1 and -1 is not theirs


def fisher(r: npt.ArrayLike) -> Floats:
    """atanh(r), finite for r of 1 and -1 too."""
    return np.asarray(np.arctanh(np.clip(np.asarray(r, dtype=np.float64), -1.0 + 1e-12, 1.0 - 1e-12)))


def jackknife_se(left_out: npt.ArrayLike) -> float | None:
    """Standard error from an estimate's values with one unit left out at a time, (n,); None of fewer than two.

    sqrt((n - 1) / n · sum of squares about their mean) (Tukey 1958).
    """
    values = np.asarray(left_out, dtype=np.float64)
    n = len(values)
    return None if n < 2 else float(np.sqrt((n - 1) / n * ((values - values.mean()) ** 2).sum()))
