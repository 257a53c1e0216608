"""How many choices a perfect probe of the utilities would get right."""

import numpy as np

from prefprobe.thurstonian.comparisons import Comparisons
from prefprobe.thurstonian.fit import fit_mu
from prefprobe.thurstonian.observations import Floats

FOLDS = 10
NO_CEILING: dict[str, float | int | None] = {"accuracy": None, "n_choices": 0, "in_sample": None}
"""That of no choices."""


def agreement_ceiling(comparisons: Comparisons, *, folds: int = FOLDS, seed: int = 0) -> dict[str, float | int | None]:
    """Accuracy of the utilities on choices that they were not fitted to: K-fold cross-validation over pairs.

    A choice is right where the preferred task has the higher utility, equal ones being half right; each pair counts once,
    as for a probe, and one without a direction not at all. Fitted with 1 / `folds` less of the pairs than there are, and to
    noisy ones, utilities do a little worse than the true ones would: `accuracy` is a ceiling from below. `in_sample`, that of
    utilities on the very choices they were fitted to, lies above it: what the true ones would score is between the two. Both
    are None without choices that have a direction (`n_choices`), or with fewer pairs than two.

    It costs folds + 1 fits (`fit_mu`) from zero: started from the fit to all pairs they would know what is left out.
    """
    pairs = len(comparisons.i)
    side = np.sign(comparisons.wins - comparisons.count / 2)
    decided = int((side != 0).sum())
    if pairs < 2 or not decided:
        return {**NO_CEILING, "n_choices": decided}
    fold = np.random.default_rng(seed).permutation(pairs) % min(folds, pairs)
    out = np.empty(pairs)
    for k in np.unique(fold):
        left = fold == k
        out[left] = _difference(fit_mu(comparisons.take(np.flatnonzero(~left))), comparisons)[left]
    scored = [
        float((0.5 + 0.5 * np.sign(difference) * side)[side != 0].mean())
        for difference in (out, _difference(fit_mu(comparisons), comparisons))
    ]
    return {"accuracy": scored[0], "n_choices": decided, "in_sample": scored[1]}


def _difference(mu: Floats, comparisons: Comparisons) -> Floats:
    return np.asarray(mu[comparisons.i] - mu[comparisons.j])
