"""Stops a step whose model does not answer with a label: the odds of two labels that it hardly ever says mean little."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from prefprobe.choices.engine import Answer, Engine, Question, Reading
from prefprobe.errors import BadConfig

_ENOUGH = 100
"""Answers under one system prompt whose mean says what that of all would; fewer exact ones are judged when there are no
more."""
_NAMED = {"a": 1.0, "b": 1.0, "unparsed": 0.0}
"""Label mass of a sampled answer by its outcome; a refusal says that it was understood."""


class LabelMass:
    """The label mass of an engine's answers so far, by system prompt: of sampled ones the share that begins with a label, but
    for refusals.

    `least` is the mean below which it stops; 0 never stops.
    """

    def __init__(self, engine: Engine, least: float) -> None:
        self._engine, self._least = engine, least
        self._open: dict[str, str] = {}
        self._left: Counter[str] = Counter()
        self._sum: defaultdict[str, float] = defaultdict(float)
        self._count: Counter[str] = Counter()

    def expect(self, questions: Sequence[Question]) -> None:
        """These are asked next."""
        if self._least > 0.0:
            self._open = {q.id: q.prompt_id for q in questions}
            self._left = Counter(self._open.values())

    def note(self, answers: Iterable[Answer]) -> None:
        """Takes answers to questions that are expected. Raises BadConfig under the system prompt with the lowest mean, if
        that is below `least`.
        """
        changed = set()
        for answer in answers:
            if answer.id in self._open:
                prompt = self._open.pop(answer.id)
                changed.add(prompt)
                self._left[prompt] -= 1
                mass = self._mass(self._engine.read(answer))
                if mass is not None:
                    self._sum[prompt] += mass
                    self._count[prompt] += 1
        means = {
            prompt: self._sum[prompt] / self._count[prompt]
            for prompt in sorted(changed & self._count.keys())
            if self._count[prompt] >= _ENOUGH or (self._engine.exact and not self._left[prompt])
        }
        prompt = min(means, key=lambda name: means[name], default="")
        if means and means[prompt] < self._least:
            raise BadConfig(self._sentence(prompt, means[prompt]))

    def _mass(self, reading: Reading) -> float | None:
        return reading.label_mass if self._engine.exact else _NAMED.get(reading.outcome)

    def _sentence(self, prompt: str, mean: float) -> str:
        under = f" under the system prompt {prompt!r}" if prompt else ""
        sampled = {
            "exact-api": "set choices.api.mode to sampled",
            "sampled-api": "look at what it says (prefprobe ask), have a judge read it (choices.api.judge)",
        }.get(
            self._engine.name,
            "measure through a server of the same weights (choices.engine: api), where answers are sampled",
        )
        at_once = "choices.api.extra" if self._engine.name.endswith("api") else "model.template"
        return (
            f"choices: the mean probability that an answer begins with a label is {mean:.2g}{under} after "
            f"{self._count[prompt]} choices, expected choices.min_label_mass = {self._least:g} or more; {sampled}, try "
            "other labels (choices.label_a, choices.label_b), have a model that thinks first answer at once "
            f"({at_once}), or lower choices.min_label_mass."
        )
