"""How an answer is read: from own weights, from an endpoint's log-probabilities, or from sampled words."""

from urllib.parse import urlsplit

from prefprobe.findings.results import Results
from prefprobe.numbers import listed

_TAKEN = {"seed": "seed", "temperature": "temperature", "system": "system role"}
"""What an endpoint may not take, as `asked` names it and as a reader does."""


def answered(results: Results) -> str:
    """The half of a sentence on what is read of an answer."""
    if results.measure["train"]["engine"].startswith("sampled"):
        return "an answer is sampled and the label that it begins with is read, refusals being an outcome of their own"
    if results.api:
        return "log P(A) / P(B) is read from the log-probabilities that the endpoint lists for the labels"
    return "log P(A) / P(B) is read from the label tokens in one forward pass"


def asked(results: Results) -> list[str]:
    """Whom an API was asked for, how often, and what became of other answers; nothing if none was asked."""
    if not results.api:
        return []
    about = results.measure["train"].get("asked") or {}
    whom = f"{results.api['model']} at {urlsplit(results.api['base_url']).netloc}"
    if results.measure["train"]["engine"].startswith("sampled"):
        said = f"{whom} was asked {_times(results)} in each order{_seeds(results)}; {_others(results)}."
    else:
        top = f"the {about['top_logprobs']} likeliest tokens" if about.get("top_logprobs") else "the likeliest tokens"
        said = (
            f"{whom} was asked once in each order for the log-probabilities of {top} at each position; a label that is "
            "not among them counts as being as likely as the last of them or as all that they leave, whichever is less, "
            "and an answer that begins with no label counts for neither task."
        )
    lacking = [name for field, name in _TAKEN.items() if about.get(field) is False]
    folded = ", so that a system prompt stands at the head of the user’s turn" if "system role" in lacking else ""
    return [said + (f" The endpoint takes no {' and no '.join(lacking)}{folded}." if lacking else "")]


def _times(results: Results) -> str:
    blocks = ["train", "eval"] + (["shift"] if results.shift else [])
    samples = {block: results.config[block]["samples"] for block in blocks}
    if len(set(samples.values())) == 1:
        return "once" if samples["train"] == 1 else f"{samples['train']} times"
    names = {"train": "train", "eval": "eval", "shift": "system prompts"}
    return f"{listed([f'{n} ({names[block]})' for block, n in samples.items()])} times"


def _seeds(results: Results) -> str:
    takes = (results.measure["train"].get("asked") or {}).get("seed")
    return ", with another seed each time" if takes and results.api and results.api["seed"] is not None else ""


def _others(results: Results) -> str:
    judge = results.api and results.api["judge"]
    if not judge:
        return "an answer without a label counts for neither task"
    return f"an answer without a label is read by {judge['model']}, and counts for neither task if that cannot tell"
