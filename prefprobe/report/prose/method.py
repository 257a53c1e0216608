"""The method, a sentence or two for each part of it, every number taken from the configuration and the results."""

from prefprobe.findings.results import Results
from prefprobe.numbers import by_set, count, listed
from prefprobe.report.prose.method_answers import answered, asked
from prefprobe.report.prose.method_prompts import rendered
from prefprobe.report.prose.one_model import compared
from prefprobe.tasks.topics import OTHER


def method(results: Results) -> list[str]:
    """What was done, in the order in which it was done."""
    return [*_choices(results), *_probes(results), _shifts(results)]


def _choices(results: Results) -> list[str]:
    tasks, train, eval_ = (results.config[block] for block in ("tasks", "train", "eval"))
    labels = listed([f"“{results.config['choices'][key]}”" for key in ("label_a", "label_b")])
    topics = len({results.topics[i] for i in results.utilities["train"].column("task_id").to_pylist()})
    measured = results.measure["train"]
    sampled = measured["engine"].startswith("sampled")
    errors = "" if sampled else ", scaled to how much exact probabilities scatter about the fit"
    return [
        f"{count(tasks['n_train'])} train and {count(tasks['n_eval'])} eval tasks in {topics} topics were frozen before "
        "anything was measured; the sets share no task.",
        *_left_out(results),
        f"One choice shows two tasks under the labels {labels} and asks which the model would rather do; "
        f"{answered(results)}, at temperature {measured['temperature']:g}, and every pair is shown in both orders.",
        *asked(results),
        *compared(results),
        *rendered(results),
        *_weights(results),
        f"Pairs begin as a random {train['initial_degree']}-regular graph and grow in rounds of {count(train['batch'])} "
        f"(train) and {count(eval_['batch'])} (eval) among tasks close in utility and little compared, for at most "
        f"{train['max_rounds']} (train) and {eval_['max_rounds']} (eval) rounds.",
        "Utilities are maximum a posteriori estimates of Thurstone’s model, U ~ N(μ, σ²) for each task, with a weak "
        f"prior on μ; standard errors are Laplace’s{errors}, and the unit of μ is a typical σ.",
    ]


def _left_out(results: Results) -> list[str]:
    said = []
    if n := results.too_long:
        were = "1 task was" if n == 1 else f"{count(n)} tasks were"
        said.append(f"{were} left out of the draw, as prompts with them would be beyond the model’s context.")
    if results.merged:
        fewer = count(results.config["topics"]["min_tasks"])
        said.append(
            f"Topics with fewer than {fewer} train tasks count as one, “{OTHER}”: {listed(sorted(results.merged))}."
        )
    return said


def _weights(results: Results) -> list[str]:
    """Said of each model whose weights are not as they were trained."""
    models = {"model": results.model_name, "base": results.labels.get("base")}
    said = {name: (results.config.get(key) or {}).get("quantisation") for key, name in models.items()}
    how = {"8bit": "8 bits (LLM.int8(), which rounds activations too)", "4bit": "4 bits (NF4)"}
    return [
        f"Weights of {name} are quantised at load to {how[bits]} by bitsandbytes: what is measured is the quantised model."
        for name, bits in said.items()
        if bits
    ]


def _probes(results: Results) -> list[str]:
    settings, card, probe = results.config["probes"], results.model_card, results.probe["model"]
    published_way = settings["compat"] == "reference"
    means = "each set’s own topic means (the published procedure)" if published_way else "topic means fitted on train"
    tuned = (
        "one α, chosen on all of eval at the first layer, serves every fold (the published procedure)"
        if published_way
        else "α and block of each fold are chosen inside its training topics"
    )
    held = "1 topic is" if settings["holdout"] == 1 else f"{settings['holdout']} topics are"
    controls = [f"train labels permuted {settings['permutations']} times"]
    controls += ["an untrained copy of the network"] if results.features("untrained") else []
    controls += ["random vectors of the same width"] if results.features("random") else []
    tested = (
        f"one half of eval ({count(probe['n_select'])} tasks), and every result is of the other half "
        f"({count(probe['n_final'])} tasks; the published procedure)"
        if published_way
        else f"one half of eval, and the other half is predicted with them, then the reverse, so that every result is of all "
        f"{count(probe['n_final'])} eval tasks"
    )
    first, *further = results.config["activations"].get("positions", ["last"])
    others = f" (the features “at …”: {listed([_where(position) for position in further])})" if further else ""
    return [
        f"A probe reads the residual stream (width {count(card['d'])}) {_where(first)}{others}, after "
        f"blocks {listed([str(layer) for layer in probe['layers']])} of {card['n_layers']} (counted from 0).",
        f"It is a ridge regression of μ on standardised activations of the train tasks; α (of {len(probe['alphas'])} "
        f"values) and block are those with the highest Pearson r on {tested}.",
        *_candidates(results),
        f"“Topic means removed” predicts what is left of μ after {means}.",
        f"For held-out topics, {held} left out of training at a time, and r is that within what was left out; {tuned}.",
        f"Controls are {listed(controls)}, put through the same selection; intervals are 95 %, of a jackknife over tasks, over "
        "topics with refits for held-out topics, and over prompts and tasks for shifts; correlations on Fisher’s scale.",
    ]


def _where(position: str) -> str:
    """At which tokens a prompt is read."""
    of = {
        "last": "at the last token of the rendered prompt",
        "task-last": "at the last token of the task’s text",
        "mean": "averaged over the tokens of the task’s text",
    }
    return of.get(position) or f"at token {position.removeprefix('turn:')} of the rendered prompt, counted from its end"


def _candidates(results: Results) -> list[str]:
    """Said where features that are compared have different numbers of layers to choose from."""
    layers = {results.labels[name]: len(results.probe[name]["layers"]) for name in results.features()}
    if len(set(layers.values())) == 1:
        return []
    many = by_set({name: str(n) for name, n in layers.items()})
    return [
        f"The probes that are compared have different numbers of blocks to choose from: {many}; "
        "since a block is chosen and tested on different tasks, this makes none look better than it is."
    ]


def _shifts(results: Results) -> str:
    if results.shift is None:
        return "No system prompts were tried."
    return (
        "For every system prompt and task, Δp is P(choose the task) under the prompt less that under the baseline "
        f"prompt “{results.shift['baseline']}”, against the same {results.shift['n_comparisons']} comparison tasks, "
        "and Δs is the change of the probe’s score of the task between the same two prompts."
    )
