"""The templates of every page, and the escaping they rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.report import formats

if TYPE_CHECKING:
    from jinja2 import Environment


def template_environment() -> Environment:
    """The templates in `launcher/assets`, with the filters of `formats`; a name that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("launcher", "assets"),
        # Instructions and answers hold `<tool_call>`: everything is escaped but the charts, which are marked safe.
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= formats.FILTERS
    return environment
