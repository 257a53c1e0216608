"""How far the measured utilities can be trusted, from the choices alone."""

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import lsmr

from prefprobe.errors import BadConfig
from prefprobe.thurstonian.fit import Comparisons, fit_mu
from prefprobe.thurstonian.observations import Ids, merge_logits


def split_half(comparisons: Comparisons, *, splits: int = 10, seed: int) -> dict[str, float | int | None]:
    """Correlation between the utilities of two random halves of the pairs, over tasks that both halves compare.

    Whole pairs are split, not observations, so agreement cannot come from asking the same question twice. Pearson r is
    averaged over `splits` through Fisher's z. `spearman_brown` = 2 r / (1 + r) foretells the reliability of utilities
    fitted to all pairs. `split_half_r` is None if no split has three shared tasks with utilities that vary, and
    `spearman_brown` also if r is negative; `splits` is the number of splits that entered.

    It costs 2 `splits` fits of half the pairs (`fit_mu`), 3 s for 10 splits at 10,000 tasks and 62,400 pairs. They start
    from zero: from the fit to all pairs they took longer and gave the same r to 0.0005.
    """
    if splits < 1:
        raise BadConfig(f"Split-half reliability needs splits >= 1, got {splits}; change it.")
    pairs = len(comparisons.i)
    scores = []
    for split in range(splits):
        shuffled = np.random.default_rng([seed, split]).permutation(pairs)
        halves = [comparisons.take(np.sort(half)) for half in (shuffled[: pairs // 2], shuffled[pairs // 2 :])]
        shared = (halves[0].degree > 0) & (halves[1].degree > 0)
        if shared.sum() < 3:
            continue
        first, second = (fit_mu(half)[shared] for half in halves)
        if np.ptp(first) > 0.0 and np.ptp(second) > 0.0:
            # Two halves of noiseless data can agree to the last bit, where Fisher's z is infinite.
            scores.append(np.arctanh(np.clip(np.corrcoef(first, second)[0, 1], -1.0 + 1e-12, 1.0 - 1e-12)))
    r = float(np.tanh(np.mean(scores))) if scores else None
    whole = 2.0 * r / (1.0 + r) if r is not None and r >= 0.0 else None
    return {"split_half_r": r, "spearman_brown": whole, "splits": len(scores)}


def additive_r2(task_a: Ids, task_b: Ids, logit: npt.ArrayLike) -> float | None:
    """Share of the variance of debiased pair logits that one number per task explains, y_ij = x_i - x_j.

    x is the least-squares solution with every pair weighted the same. Both sums of squares are divided by their degrees
    of freedom, R2 = 1 - (SSE / (m - p)) / (SST / m), with m pairs and p = tasks - connected components, the rank of the
    model. SST is taken about 0 and not about the mean, since the sign of each y depends on which task is named first.
    A choice without any additive structure gives 0 on average. None if m <= p or if all logits are 0.
    Raises BadConfig naming the row for a logit that is not finite.
    """
    ids, i, j, y, _ = merge_logits(task_a, task_b, logit)
    pairs, tasks = len(y), len(ids)
    components = connected_components(coo_array((np.ones(pairs), (i, j)), shape=(tasks, tasks)), directed=False)[0]
    freedom = pairs - (tasks - components)
    total = float(np.sum(y**2))
    if freedom <= 0 or total == 0.0:
        return None
    row = np.arange(pairs)
    sign = np.concatenate([np.ones(pairs), -np.ones(pairs)])
    design = coo_array((sign, (np.tile(row, 2), np.concatenate([i, j]))), shape=(pairs, tasks)).tocsr()
    x = lsmr(design, y, atol=1e-12, btol=1e-12, conlim=0.0, maxiter=10 * tasks)[0]
    unexplained = float(np.sum((y - design @ x) ** 2))
    return float(1.0 - (unexplained / freedom) / (total / pairs))
