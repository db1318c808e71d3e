"""Reading a YAML file as plain data, strictly: one document, one mapping, no duplicate keys, no aliases.

Scalars follow YAML 1.2, not PyYAML's 1.1: `2e-5` is a number, `off` and `no` are text, `1:30` is not 90.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from launcher.errors import BadInput

MOST_BYTES = 1_000_000
_MOST_DIGITS = 18


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader without aliases, merge keys, duplicate keys, and the surprises of YAML 1.1 scalars."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        # Ten lines of aliases to aliases expand to billions of nodes; `extends` covers the honest use.
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            problem = "anchors and aliases are not supported; repeat the value, or use extends"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem=f"tags ({event.tag}) are not supported", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a plain word", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands here twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_short_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _MOST_DIGITS:
            raise yaml.MarkedYAMLError(
                problem=f"a number of {len(node.value)} digits; {_MOST_DIGITS} at most", problem_mark=node.start_mark
            )
        return int(node.value)


# The scalars of YAML 1.2: tag, pattern, first characters.
_SCALARS = (
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+0123456789.")),
    ("float", r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
)
_StrictLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _SCALARS:
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_short_int)


def read_mapping(path: Path) -> dict[str, Any]:
    """The one mapping of a YAML file, keys as text.

    Raises:
        BadInput: there is no such file, or it is not one strict YAML mapping; one line, with the line number if known.
    """
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"{path}: not a file")
        if path.stat().st_size > MOST_BYTES:
            raise BadInput(f"{path}: {path.stat().st_size:,} bytes; a job file has {MOST_BYTES:,} at most")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not a text file in UTF-8") from None
    except OSError as fault:
        raise BadInput(f"{path}: cannot be read ({fault.strerror})") from None
    content = _parse(path, text)
    if content is None:
        raise BadInput(f"{path}: empty; a mapping of fields is needed")
    if not isinstance(content, dict):
        raise BadInput(f"{path}: a {type(content).__name__}; a mapping of fields (key: value) is needed")
    return content


def _parse(path: Path, text: str) -> Any:
    loader = None
    try:
        loader = _StrictLoader(text)
        content = loader.get_data() if loader.check_data() else None
        if loader.check_data():
            raise BadInput(f"{path}: more than one YAML document; one file is one job")
        return content
    except yaml.MarkedYAMLError as fault:
        line = f":{fault.problem_mark.line + 1}" if fault.problem_mark else ""
        raise BadInput(f"{path}{line}: {fault.problem}") from None
    except (yaml.YAMLError, ValueError) as fault:
        raise BadInput(f"{path}: not YAML ({str(fault).splitlines()[0]})") from None
    except RecursionError:
        raise BadInput(f"{path}: nested too deeply for a job file") from None
    finally:
        if loader is not None:
            loader.dispose()
