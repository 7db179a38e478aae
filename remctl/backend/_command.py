# SPDX-License-Identifier: MIT
"""One command: its declaration, and running it with arguments of a client."""

from __future__ import annotations

from remctl.backend._errors import RefusedError
from remctl.backend._parameters import Signature
from remctl.backend._streams import read_stdin

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Callable

    from remctl.backend._options import Parser
    from remctl.backend._parameters import Options, Parameter, Pattern


class Command:
    """A function that a client may run."""

    def __init__(
        self,
        function: Callable[..., int | None],
        *,
        syntax: str | None,
        summary: str | None,
        args_match: Mapping[str, Pattern],
        args_min: int | None,
        args_max: int | None,
        stdin: str | None,
        options: Options | None,
        hidden: bool,
    ) -> None:
        """Check the declaration: see Group.command()."""
        self.function = function
        self.hidden = hidden
        self.description: str = function.__doc__ or ""
        self._signature = Signature(function, {stdin} if stdin else set())
        known = self._signature.all()
        for name, pattern in args_match.items():
            if name not in known:
                raise ValueError(f"args_match names no parameter: {name!r}")
            known[name].must_match(pattern)
        self._stdin = known.get(stdin) if stdin else None
        self._check_stdin(stdin)
        self.parser: Parser | None = None
        if options is not None:
            from remctl.backend._options import Parser  # noqa: PLC0415  # see there

            self.parser = Parser(options)
        self._check_options()
        self._set_counts(args_min, args_max)
        self.syntax: str = self._described() if syntax is None else syntax
        if summary is None:
            summary = self.description.strip().partition("\n\n")[0]
        self.summary: str = " ".join(summary.split())

    def run(self, arguments: list[bytes]) -> int:
        """Check ``arguments``, call the function with them, and return the status."""
        options: dict[str, Any] = {}
        if self.parser is not None:
            options, arguments = self.parser.split(arguments)
        by_stdin = self._stdin is not None
        if self.args_max is not None and len(arguments) + by_stdin > self.args_max:
            raise RefusedError("too many arguments")
        if len(arguments) + by_stdin < self.args_min:
            raise RefusedError("insufficient arguments")
        values = self._converted(arguments, options)
        return exit_status(self.function(*values, **options))

    def _converted(
        self, arguments: list[bytes], keywords: dict[str, Any]
    ) -> list[str | int | bytes]:
        """Convert ``arguments`` for the function; add some to ``keywords``."""
        signature, stdin = self._signature, self._stdin
        if stdin is not None:
            place = len(arguments)
            if stdin in signature.positional:
                place = signature.positional.index(stdin)
            arguments = [*arguments[:place], read_stdin(), *arguments[place:]]
        count = len(arguments) - len(signature.keywords)
        parameters: list[Parameter] = signature.positional[:count]
        if signature.rest is not None:
            parameters += [signature.rest] * (count - len(parameters))
        values = [
            parameter.convert(argument, number)
            for number, (parameter, argument) in enumerate(
                zip(parameters, arguments), 1
            )
        ]
        for parameter in signature.keywords.values():
            keywords[parameter.name] = parameter.convert(arguments[-1], len(arguments))
        return values

    def _check_stdin(self, name: str | None) -> None:
        if name is None:
            return
        parameter = self._stdin
        if parameter is None or parameter is self._signature.rest:
            raise ValueError(f"stdin names no parameter: {name!r}")
        if parameter.type is not bytes:
            raise TypeError(f"{name} comes from standard input and must be bytes")
        positional = self._signature.positional
        if parameter in positional[self._signature.required :]:
            raise TypeError(f"{name} comes from standard input, and has a default")

    def _check_options(self) -> None:
        """Check that options and keyword-only parameters are the same."""
        names = self.parser.names() if self.parser is not None else set()
        signature = self._signature
        missing = signature.required_keywords - set(signature.keywords) - names
        if missing:
            raise TypeError(
                f"no options for keyword-only parameters: {sorted(missing)}"
            )
        known = set(signature.keyword_only) - set(signature.keywords)
        surplus = names - known
        if surplus and not signature.any_keyword:
            raise TypeError(
                f"no keyword-only parameters for options: {sorted(surplus)}"
            )

    def _set_counts(self, args_min: int | None, args_max: int | None) -> None:
        """Take the numbers of arguments from the signature, and narrow them."""
        signature = self._signature
        least = signature.required + len(signature.keywords)
        most = None
        if signature.rest is None:
            most = len(signature.positional) + len(signature.keywords)
        self.args_min: int = least if args_min is None else args_min
        self.args_max: int | None = most if args_max is None else args_max
        wrong = self.args_min < least
        if self.args_max is not None:
            wrong |= self.args_min > self.args_max
            wrong |= most is not None and self.args_max > most
        if wrong:
            raise ValueError("args_min and args_max do not fit the function")

    def _described(self) -> str:
        """Return the syntax that the signature has."""
        signature = self._signature
        words = [] if self.parser is None else ["[<options>]"]
        for index, parameter in enumerate(signature.positional):
            name = f"<{shown(parameter)}>"
            words.append(name if index < signature.required else f"[{name}]")
        if signature.rest is not None:
            words.append(f"[<{shown(signature.rest)}> ...]")
        words += [f"<{shown(parameter)}>" for parameter in signature.keywords.values()]
        return " ".join(words)


def shown(parameter: Parameter) -> str:
    """Return the parameter's name as the help shows it."""
    return parameter.name.replace("_", "-")


def exit_status(result: object) -> int:
    """Return the status that a command's ``result`` stands for."""
    if result is None:
        return 0
    # exit() would turn True into 1, and 256 into 0.
    if isinstance(result, bool) or not isinstance(result, int):
        raise TypeError(f"a command must return None or an int, not {result!r}")
    if not 0 <= result <= 255:
        raise ValueError(f"an exit status must be 0 to 255, not {result}")
    return result
