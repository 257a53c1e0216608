"""How the model's prompts were made: by its chat template or as bare text, dated, folded, with a thought closed."""

from typing import Any

from prefprobe.findings.results import Results
from prefprobe.numbers import count, listed


def rendered(results: Results) -> list[str]:
    """One sentence or more; of the prompts of activations alone if choices came from an endpoint, which has its own way."""
    about: dict[str, Any] = results.model_card["prompt"]
    if not results.api:
        about = about | (results.measure["train"].get("asked") or {}).get("prompt", {})
    passes = [
        f"Where packed passes do not give the model’s own values they are not used: {alone}."
        for alone in [results.model_card["alone"]]
        if alone
    ]
    choices = sum(found.get("alone", 0) for found in results.accounts.values())
    if choices:
        passes.append(f"{count(choices)} choices were read in a pass of their one prompt, for the same reason.")
    return [*_prompts(about, bool(results.api)), *passes]


def _prompts(about: dict[str, Any], api: bool) -> list[str]:
    which = "Prompts of activations are" if api else "Prompts are"
    merged = (
        " Its tokenizer would merge the end of the prompt with a label; the label’s tokens are read behind the prompt’s own."
        if about["merged"]
        else ""
    )
    if not about["chat"]:
        return [f"{which} bare text, a system prompt above it.{merged}"]
    given = [f"{name} = {_shown(value)}" for name, value in sorted(about["template"].items())]
    arguments = f", given {listed(given)}" if given else ""
    dated = f", on a date that is fixed at {about['date']}" if about.get("date") else ""
    system = (
        "it prints no system turn, so that a system prompt stands at the head of the user’s"
        if about["folded"]
        else "a system prompt has a turn of its own"
    )
    closing = not api and about["closing"] and " ".join(about["closing"].split())
    closed = f" Before an answer, a thought is closed as the template does it: “{closing}”." if closing else ""
    return [f"{which} rendered with the model’s chat template{arguments}{dated}; {system}.{closed}{merged}"]


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
