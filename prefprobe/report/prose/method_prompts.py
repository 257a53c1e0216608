"""How the model's prompts were made: by its chat template or as bare text, dated, folded, with a thought closed."""

from typing import Any

from prefprobe.findings.results import Results
from prefprobe.numbers import listed


def rendered(results: Results) -> list[str]:
    """One sentence or more; nothing if choices came from an endpoint, which renders prompts itself."""
    about: dict[str, Any] | None = results.measure["train"].get("prompt")
    if not about:
        return []
    merged = (
        " Its tokenizer would merge the end of the prompt with a label; the label’s tokens are read behind the prompt’s own."
        if about["merged"]
        else ""
    )
    if not about["chat"]:
        return [f"Prompts are bare text, a system prompt above it.{merged}"]
    given = [f"{name} = {_shown(value)}" for name, value in sorted(about["template"].items())]
    arguments = f", given {listed(given)}" if given else ""
    dated = f", on a date that is fixed at {about['date']}" if about.get("date") else ""
    system = (
        "it prints no system turn, so that a system prompt stands at the head of the user’s"
        if about["folded"]
        else "a system prompt has a turn of its own"
    )
    closing = about["closing"] and " ".join(about["closing"].split())
    closed = f" Before an answer, a thought is closed as the template does it: “{closing}”." if closing else ""
    return [f"Prompts are rendered with the model’s chat template{arguments}{dated}; {system}.{closed}{merged}"]


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
