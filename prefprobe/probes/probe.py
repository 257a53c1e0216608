"""A probe: one direction in the activations of one layer, and the file that it is kept in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from prefprobe.errors import BadConfig
from prefprobe.probes.intervals import Interval
from prefprobe.probes.leaveout import group_out_predictions
from prefprobe.probes.metrics import best, determination, pearson, r_interval
from prefprobe.probes.ridge import ALPHAS, Decomposition, Floats, fit, require_finite
from prefprobe.store.formats import json_bytes, npz_bytes, read_json, read_npz

WEIGHTS, CARD = "probes.npz", "card.json"
"""The two files of a folder with probes: `<target>_<L>_w` (d,) and `<target>_<L>_b` (), and what is known of them."""

Target = Literal["raw", "demeaned"]


@dataclass(frozen=True)
class Agreement:
    """How well a probe's scores agree with what was observed; None where nothing can be estimated."""

    r: Interval | None
    """Pearson correlation with its 95 % interval over tasks."""
    R2: float | None
    """1 - SSE / SST: also asks for the right scale and level."""
    n: int


@dataclass(frozen=True, eq=False)
class Probe:
    """A ridge direction: the score of activations x (d,) at `layer` is x · w + b, in units of utility."""

    w: Floats = field(repr=False)
    """(d,) in the space of the features as they are, not standardised."""
    b: float
    layer: int = 0
    target: Target = "raw"
    """`raw` utilities, or `demeaned` ones, without what their topics explain."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from, as plain JSON: model and revision, the keys of its data, the chosen α, r."""

    @classmethod
    def train(
        cls,
        X: npt.NDArray[Any],
        y: npt.ArrayLike,
        *,
        layer: int = 0,
        groups: npt.ArrayLike | None = None,
        alphas: npt.ArrayLike = ALPHAS,
        target: Target = "raw",
    ) -> "Probe":
        """Ridge regression of y (n,) on X (n, d), standardised, with the penalty of the best left-out predictions.

        Of `alphas` that one is taken whose predictions of rows that were left out of the fit have the highest Pearson r
        with y: left out one by one, or whole `groups` (n,), such as topics, at once; exact, without refitting. The card
        says `alpha`, and `r_left_out`. Raises BadConfig for fewer than 3 rows, other lengths and what is not finite.
        """
        X, targets = np.asarray(X), np.asarray(y, dtype=np.float64)
        of = np.arange(len(X)) if groups is None else np.asarray(groups)
        if target not in ("raw", "demeaned"):
            raise BadConfig(f"probe: the target {target!r} is neither raw nor demeaned; name one of these.")
        if X.ndim != 2 or targets.shape != (len(X),) or of.shape != (len(X),) or len(X) < 3:
            raise BadConfig(
                f"probe: X has the shape {X.shape}, y {targets.shape} and groups {of.shape}; expected (n, d), (n,) and (n,) "
                "with n of 3 or more."
            )
        penalties = np.atleast_1d(np.asarray(alphas, dtype=np.float64))
        if penalties.ndim != 1 or not len(penalties):
            raise BadConfig(f"probe: alphas have the shape {penalties.shape}, expected one penalty or a list of them.")
        decomposition = Decomposition.of(X)
        sweep = [
            pearson(targets, left_out) for left_out in group_out_predictions(decomposition, targets, of, penalties)
        ]
        a = best(sweep)
        W, b = fit(decomposition, targets, penalties[a : a + 1])
        card = {"alpha": float(penalties[a]), "r_left_out": sweep[a], "n_train": len(X)}
        return cls(np.ascontiguousarray(W[0, :, 0]), float(b[0, 0]), int(layer), target, card)

    @classmethod
    def of(
        cls,
        weights: Mapping[str, npt.NDArray[Any]],
        layer: int,
        target: Target = "raw",
        card: Mapping[str, Any] | None = None,
    ) -> "Probe":
        """One of several probes as they are stored together: `<target>_<L>_w` and `<target>_<L>_b`."""
        w, b = weights[f"{target}_{layer}_w"], weights[f"{target}_{layer}_b"]
        return cls(w, float(b), int(layer), target, card or {})

    @classmethod
    def load(cls, folder: str | Path, *, target: Target = "raw", layer: int | None = None) -> "Probe":
        """A probe out of a folder that `save`, or `prefprobe step probe.model --out`, has written; at its best layer.

        Raises BadConfig naming the file that is missing or malformed, and a layer or target that is not in it.
        """
        files = {name: Path(folder) / name for name in (WEIGHTS, CARD)}
        try:
            weights, card = read_npz(files[WEIGHTS].read_bytes()), read_json(files[CARD].read_bytes())
            chosen = int(card["best"][target]["best_layer"]) if layer is None else layer
            probe = cls.of(weights, chosen, target, card)
            if probe.w.ndim != 1 or not (np.isfinite(probe.w).all() and np.isfinite(probe.b)):
                raise ValueError(f"{target}_{chosen}: expected finite weights (d,), found the shape {probe.w.shape}")
            return probe
        except FileNotFoundError as error:
            raise BadConfig(f"{error.filename}: no such file; name a folder with {WEIGHTS} and {CARD}.") from error
        except KeyError as error:
            known = ", ".join(sorted(name.removesuffix("_w") for name in weights if name.endswith("_w")))
            raise BadConfig(
                f"{folder}: holds no {error.args[0]}; its probes are {known}; name one of these by target and layer."
            ) from error
        except (OSError, ValueError, TypeError, EOFError, BadZipFile) as error:
            raise BadConfig(f"{folder}: its probes cannot be read ({error}); save or export them again.") from error

    def save(self, folder: str | Path) -> None:
        """Write `probes.npz` and `card.json` into a folder, which must not hold such files yet (else BadConfig)."""
        files = {name: Path(folder) / name for name in (WEIGHTS, CARD)}
        there = [str(file) for file in files.values() if file.exists()]
        if there:
            raise BadConfig(f"{there[0]} exists; save into a new folder.")
        name = f"{self.target}_{self.layer}"
        known = self.card.get("best", {}).get(self.target, {})
        about = known if known.get("best_layer") == self.layer else {"alpha": self.card.get("alpha"), "r": None}
        card = {**self.card, "best": {self.target: {**about, "best_layer": self.layer}}}
        weights = npz_bytes({f"{name}_w": self.w, f"{name}_b": np.array(self.b)})
        try:
            written = json_bytes(card)
        except (TypeError, ValueError) as error:
            raise BadConfig(f"probe: the card is not plain JSON ({error}); put numbers and words into it.") from error
        if Path(folder).exists() and not Path(folder).is_dir():
            raise BadConfig(f"{folder} is a file; save into a folder.")
        Path(folder).mkdir(parents=True, exist_ok=True)
        files[WEIGHTS].write_bytes(weights)
        files[CARD].write_bytes(written)

    def score(self, X: npt.NDArray[Any]) -> Floats:
        """(n,) scores of activations X (n, d) of any float type; BadConfig for another width and for what is not finite."""
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != len(self.w):
            raise BadConfig(
                f"probe: X has the shape {X.shape}, and the probe reads (n, {len(self.w)}) at layer {self.layer}."
            )
        require_finite(X, "the features")
        return np.asarray(X.astype(np.float64) @ self.w + self.b)

    def test(self, X: npt.NDArray[Any], y: npt.ArrayLike) -> Agreement:
        """Agreement of the scores of X (n, d) with y (n,), which the training must not have seen."""
        observed = np.asarray(y, dtype=np.float64)
        if observed.shape != (len(X),):
            raise BadConfig(
                f"probe: X has {len(X)} rows and y the shape {observed.shape}; expected one value for each row."
            )
        require_finite(observed, "the target")
        scores = self.score(X)
        return Agreement(r_interval(observed, scores), determination(observed, scores), len(scores))
