# SPDX-License-Identifier: MIT
"""The arguments of a command, read from its function's signature."""

from __future__ import annotations

from types import FunctionType

from remctl.backend._errors import RefusedError

TYPE_CHECKING = False  # importing typing takes as long as starting Python

if TYPE_CHECKING:
    import argparse
    import re
    from typing import Any, Callable, Union

    Options = Callable[[argparse.ArgumentParser], object]
    Pattern = Union[str, bytes, re.Pattern[str], re.Pattern[bytes]]

VARIADIC = 0x04  # inspect.CO_VARARGS
ANY_KEYWORD = 0x08  # inspect.CO_VARKEYWORDS


class Parameter:
    """One parameter: how its arguments are checked and converted."""

    def __init__(self, name: str, annotation: object, scope: dict[str, Any]) -> None:
        """Find the type of ``annotation``, whose names are looked up in ``scope``."""
        self.name = name
        self.type = argument_type(name, annotation, scope)
        self.pattern: Pattern | None = None

    def must_match(self, pattern: Pattern) -> None:
        """Accept only arguments that ``pattern`` matches as a whole."""
        wanted = bytes if self.type is bytes else str
        if not isinstance(getattr(pattern, "pattern", pattern), wanted):
            raise TypeError(f"args_match[{self.name!r}] must be {wanted.__name__}")
        self.pattern = pattern

    def convert(self, data: bytes, number: int) -> str | int | bytes:
        """Return ``data`` as the type of the parameter; it is argument ``number``."""
        if self.type is bytes:
            self._match(data, data, number)
            return data
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise refused(data, number) from None
        if not text.isprintable():
            raise refused(data, number)
        self._match(text, data, number)
        if self.type is str:
            return text
        digits = text[1:] if text.startswith(("-", "+")) else text
        # int() takes digits of other alphabets, too, and is slow for very long texts.
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 100):
            raise refused(data, number)
        return int(text)

    def _match(self, value: str | bytes, data: bytes, number: int) -> None:
        if self.pattern is not None:
            import re  # noqa: PLC0415  # importing re takes half as long as starting Python

            pattern: re.Pattern[Any] = re.compile(self.pattern)
            if not pattern.fullmatch(value):
                raise refused(data, number)


def refused(data: bytes, number: int) -> RefusedError:
    """Return the error for argument ``number``; it shows printable ``data``."""
    if all(0x20 <= octet < 0x7F for octet in data):
        return RefusedError(f"invalid argument: {data.decode()}")
    return RefusedError(f"invalid data in argument #{number}")


def argument_type(name: str, annotation: object, scope: dict[str, Any]) -> type:
    """Return the type that an annotation means: str, int or bytes, perhaps Optional."""
    members = [annotation]
    if isinstance(annotation, str):
        # Not typing.get_type_hints(): "str | None" is an error on Python 3.9.
        parts = annotation.split("|")
        try:
            members = [eval(part, scope) for part in parts]  # noqa: S307  # our program's
        except NameError as error:  # perhaps imported only if TYPE_CHECKING
            raise TypeError(f"{name}: {annotation}: {error}") from None
    types: set[object] = set()
    for member in members:
        union = getattr(member, "__args__", ())
        types.update(union if type(None) in union else (member,))
    types -= {None, type(None)}
    if len(types) != 1 or not types <= {str, int, bytes}:
        shown = annotation if isinstance(annotation, str) else repr(annotation)
        raise TypeError(f"{name} must be str, int or bytes, not {shown}")
    (found,) = types
    assert isinstance(found, type)  # noqa: S101  # for mypy
    return found


class Signature:
    """The parameters of a function: positional, variadic and keyword-only ones.

    They are read from the code object, as inspect.signature() does.  Importing inspect
    takes longer than starting Python.
    """

    def __init__(self, function: Callable[..., Any], keywords: set[str]) -> None:
        """Read the signature; ``keywords`` are those that are not for options."""
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        if not isinstance(function, FunctionType):
            raise TypeError(f"a command must be a function, not {function!r}")
        code = function.__code__
        count, optional = code.co_argcount, len(function.__defaults__ or ())
        names = list(code.co_varnames)
        self.keyword_only = names[count : count + code.co_kwonlyargcount]
        self.required_keywords = {*self.keyword_only} - {
            *(function.__kwdefaults__ or ())
        }
        self.any_keyword = bool(code.co_flags & ANY_KEYWORD)

        def parameter(name: str) -> Parameter:
            annotation = function.__annotations__.get(name, str)
            return Parameter(name, annotation, function.__globals__)

        self.positional = [parameter(name) for name in names[:count]]
        self.required = count - optional
        self.rest: Parameter | None = None
        if code.co_flags & VARIADIC:
            self.rest = parameter(names[count + code.co_kwonlyargcount])
        self.keywords = {
            name: parameter(name) for name in self.keyword_only if name in keywords
        }

    def all(self) -> dict[str, Parameter]:
        """Return the parameters that take arguments, by name."""
        rest = [self.rest] if self.rest else []
        everything = [*self.positional, *rest, *self.keywords.values()]
        return {parameter.name: parameter for parameter in everything}
