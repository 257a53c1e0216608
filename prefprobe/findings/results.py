"""Everything the report reads, in one object."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

_ROLES = ("model", "position", "base", "encoder", "untrained", "random")
_EXPERIMENTS = ("category", "targeted", "crossed", "competing", "persona")


@dataclass(frozen=True, eq=False)
class Results:
    """The results of one run. JSON values hold None where nothing could be estimated, never NaN."""

    run_id: str
    config: dict[str, Any]
    """The whole configuration, as the run saved it."""
    versions: dict[str, str]
    model_name: str
    model_card: dict[str, Any]
    """source, revision, n_layers (blocks), d (width), adapter."""
    steps: list[dict[str, Any]]
    """For each node that the report reads: node, step, key, seconds, outputs {name: bytes}, versions."""
    too_long: int
    """Tasks that were dropped, as they are beyond a model's context."""
    merged: dict[str, int]
    """Train tasks of each topic that was merged with other small ones."""
    topics: dict[str, str]
    """Topic by task id."""
    texts: dict[str, str]
    """Text by task id."""
    measure: dict[str, dict[str, Any]]
    """`measure.json` of train and eval."""
    utilities: dict[str, pa.Table]
    """task_id, mu, sigma, se, comparisons of train and eval."""
    probe: dict[str, dict[str, Any]]
    """`probe.json` by features name."""
    predictions: dict[str, pa.Table]
    """task_id, topic, target, observed, predicted by features name: the final half at the best layer."""
    hoo: dict[str, dict[str, Any]]
    """`hoo.json` by features name."""
    hoo_predictions: dict[str, pa.Table]
    """task_id, topic, set, fold, observed, predicted by features name."""
    content: dict[str, dict[str, Any]]
    """`content.json`: what the model's probe knows beyond each encoder's; empty without encoders."""
    roles: dict[str, str]
    """Features name → model, position (of the model, another), base, encoder, untrained or random."""
    labels: dict[str, str]
    """Features name → what charts call it."""
    shift: dict[str, Any] | None
    """`shift.json`; None if no system prompt was tried."""
    points: pa.Table | None
    """experiment, prompt_id, task_id, on_target, intended, n, p_baseline, p_prompt, dp, dp_se, ds, ds_encoder."""

    judging: dict[str, Any] = field(default_factory=dict)
    """`topics.json`: the taxonomy, the judge, and how far a second one agrees."""
    origins: dict[str, str] = field(default_factory=dict)
    """Origin by task id."""

    def features(self, *roles: str) -> list[str]:
        """Names of the features in these roles (all if none is given), the model first, controls last."""
        known = sorted(self.roles, key=lambda name: _ROLES.index(self.roles[name]))
        return [name for name in known if not roles or self.roles[name] in roles]

    @property
    def api(self) -> dict[str, Any] | None:
        """Settings of the endpoint that was asked; None if choices were read from own weights."""
        api: dict[str, Any] | None = self.config["choices"].get("api")
        return api

    @property
    def accounts(self) -> dict[str, dict[str, Any]]:
        """What came of asking, by what was asked: train, eval, and system prompts if there were any."""
        account = (self.shift or {}).get("account")
        return self.measure | ({"system prompts": account} if account else {})

    def counts(self, key: str) -> Counter[str]:
        """What accounts count under `key` (`losses`, `failures`, `served`), all together."""
        return sum((Counter(found.get(key) or {}) for found in self.accounts.values()), Counter())

    @property
    def experiments(self) -> list[tuple[str, dict[str, Any]]]:
        """Name and results of each system-prompt experiment: those of the published study first, in its order."""
        found = self.shift["experiments"] if self.shift else {}
        known = [name for name in _EXPERIMENTS if name in found]
        return [(name, found[name]) for name in known + sorted(found.keys() - set(known))]
