"""YAML as presets, experiments and `--set` give it: plain values, and no key that stands twice."""

from typing import Any

import yaml

from prefprobe.errors import BadConfig


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML readers keep the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # here, where the keys are as they were written: later a merge (`<<`) adds those that it may override
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                problem = f"the key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add((key.tag, key.value))
        return node


def parse_yaml(text: str | bytes, origin: str) -> Any:
    """The value of YAML text (bytes are UTF-8). Raises BadConfig naming `origin`, the line and what is wrong."""
    try:
        return yaml.load(text if isinstance(text, str) else text.decode("utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, KeyError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f" line {mark.line + 1}" if mark else ""
        # without a mark: bytes that are no text, a date that does not exist, a tag that its value belies, bottomless nesting
        raise BadConfig(f"{origin}{where}: not valid YAML ({problem or 'bad text or value'}).") from error
