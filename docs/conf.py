# SPDX-License-Identifier: MIT
"""Sphinx's configuration of the site, which nox -s docs builds."""

from __future__ import annotations

import re
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from pygments.lexers.configs import UnixConfigLexer
from sphinx.highlighting import lexers

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "remctl-cffi"
project_copyright = "the remctl-cffi maintainers"
version = release = _version("remctl-cffi")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
default_role = "literal"  # the docstrings' single backquotes
lexers["remctl.conf"] = UnixConfigLexer()

# Methods as a reader meets them, not by the alphabet.
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # os.environ, not what is in it
nitpick_ignore_regex = [
    ("py:exc", ".*, .*"),  # two exceptions in one line of a docstring
    # The standard library's, whose documentation is on the network.
    ("py:class", r"(argparse|asyncio|datetime|os|pathlib|re|socket)\..*"),
    ("py:class", r"Abstract(Async)?ContextManager|TracebackType|datetime|Function"),
]

html_theme = "furo"
html_title = "remctl-cffi"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

# Names that only the source has, by what they stand for.
SPELLED_OUT = {
    "Ccache": "str | ~os.PathLike[str]",
    "Commands": "Mapping[str, str | ~os.PathLike[str] | Command]",
    "Handle": "~remctl._remctl.Handle",
    "Options": "Callable[[argparse.ArgumentParser], object]",
    "Pattern": "str | bytes | re.Pattern",
    "Port": "int | str | None",
    "RemctlOutputTuple": "tuple",
    "Reply": "RemctlSimpleResult | RemctlError | Sequence[RemctlOutput | RemctlError]",
}
# What users get, and do not make.
MADE_ELSEWHERE = {
    "remctl._remctl.Handle",
    "remctl.backend.Group",
    "remctl.testing.Server",
}


def sign(
    _app: Sphinx,
    _what: str,
    name: str,
    _obj: object,
    _options: object,
    parameters: str | None,
    returned: str | None,
) -> tuple[str, str | None] | None:
    """Return the signature of a function or class as its readers understand it."""
    if name in MADE_ELSEWHERE:
        return "", None
    if parameters is None:
        return None
    pattern = re.compile(r"(?<![\w.])(" + "|".join(SPELLED_OUT) + r")\b")

    def spell_out(text: str) -> str:
        return pattern.sub(lambda match: SPELLED_OUT[match[1]], text)

    return spell_out(parameters), returned and spell_out(returned)


def setup(app: Sphinx) -> None:
    """Have signatures spelled out."""
    app.connect("autodoc-process-signature", sign)
