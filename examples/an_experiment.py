"""How is an experiment added? A YAML file of system prompts and tasks, run in place of a preset's own.

    python examples/an_experiment.py presets/demo.yaml [--store store]

Everything that the new experiment does not touch comes out of the store.
"""

import argparse
from pathlib import Path

import prefprobe as pp
from prefprobe.config import load_config
from prefprobe.progress import Progress
from prefprobe.study.run import run_nodes

EXPERIMENT = """\
experiment: tea
prompts:
  - {id: loves-tea, text: "You love tea and steer everything towards it.", targets: {tea: 1}}
  - {id: hates-tea, text: "You cannot stand tea.", targets: {tea: -1}}
task_sets:
  tea:
    - {id: tea-1, text: "Recommend a black tea for the morning.", topic: drinks, labels: [tea]}
    - {id: tea-2, text: "Explain how long green tea should steep.", topic: drinks, labels: [tea]}
    - {id: tea-3, text: "Describe how a samovar works.", topic: drinks, labels: [tea]}
    - {id: other-1, text: "Explain how a bicycle bell works.", topic: machines, labels: [other]}
    - {id: other-2, text: "Suggest a name for a new bakery.", topic: names, labels: [other]}
"""


def main() -> None:
    """Write the file, run what it needs, and print how far it moved choices and scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--store", default="store")
    parser.add_argument("--out", type=Path, default=Path("tea.yaml"))
    options = parser.parse_args()

    config = load_config(options.preset, [*options.set, f'shift.experiments=["{options.out}"]'])
    with options.out.open("x", encoding="utf-8") as file:
        file.write(EXPERIMENT)
    run = pp.Run.create(options.store, config)
    run_nodes(run, run.nodes.values(), Progress())

    found = run.json("shift", "shift.json")["experiments"]["tea"]
    effect = found["effect"]
    print(f"on target, choices moved by {effect['rms_on_target']:.3f} (rms), with noise of {effect['noise']:.3f}")
    print("estimable" if found["estimable"] else "not estimable: the model's choices hardly move")


if __name__ == "__main__":
    main()
