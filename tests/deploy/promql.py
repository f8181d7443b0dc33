"""What a PromQL expression names: metrics, with the labels that it selects or groups by.

A scanner over all tokens of PromQL, so that nothing is taken for something else: no word within a string, no function,
no label for a metric. What it cannot read is an error, not silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"""
      (?P<space>\s+|\#[^\n]*)
    | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
    | (?P<range>\[[^\]]*\])
    | (?P<variable>\$\{[A-Za-z_]\w*(?::\w+)?\}|\$[A-Za-z_]\w*)
    | (?P<number>0[xX][0-9a-fA-F]+|(?:\d+(?:ms|[smhdwy]))+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<name>[A-Za-z_:][A-Za-z0-9_:]*)
    | (?P<sign>=~|!~|==|!=|<=|>=|[-+*/%^<>=(){},@])
    """,
    re.VERBOSE,
)
_GROUPING: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS: Final = frozenset({"and", "or", "unless", "offset", "bool", "atan2", "inf", "nan", "start", "end"})


class NotPromQL(ValueError):
    """The expression cannot be read."""


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Selector:
    """One use of a metric."""

    metric: str
    matches: tuple[tuple[str, str, str], ...]
    """Label, operator, value."""


@dataclass(frozen=True, slots=True)
class Named:
    """What an expression names."""

    selectors: tuple[Selector, ...]
    grouping: frozenset[str]
    """Labels of by, without, on, ignoring, group_left and group_right."""

    @property
    def metrics(self) -> frozenset[str]:
        return frozenset(selector.metric for selector in self.selectors)

    @property
    def matched(self) -> frozenset[tuple[str, str]]:
        """Pairs of metric and label."""
        return frozenset((one.metric, label) for one in self.selectors for label, _, _ in one.matches)


def named_in(expression: str) -> Named:
    """Return what `expression` names. Raises NotPromQL."""
    tokens = [token for token in _tokens(expression) if token.kind != "space"]
    selectors: list[Selector] = []
    grouping: set[str] = set()
    at = 0
    while at < len(tokens):
        token, following = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else Token("end", "")
        at += 1
        if token.text == "{":
            raise NotPromQL(f"a selector without a metric's name in {expression!r}")
        if token.kind != "name" or token.text.lower() in _WORDS:
            continue
        if token.text.lower() in _GROUPING:
            if following.text == "(":
                names, at = _list(tokens, at + 1)
                grouping |= names
        elif following.text == "{":
            matches, at = _matches(tokens, at + 1, expression)
            selectors.append(Selector(token.text, matches))
        elif following.text != "(" and not _is_aggregation(tokens, at):
            selectors.append(Selector(token.text, ()))
    return Named(tuple(selectors), frozenset(grouping))


def _is_aggregation(tokens: Sequence[Token], at: int) -> bool:
    """Whether what comes before `at` is an operator as in `sum by (x) (...)`."""
    return at + 1 < len(tokens) and tokens[at].text.lower() in {"by", "without"} and tokens[at + 1].text == "("


def _tokens(expression: str) -> Iterator[Token]:
    at = 0
    while at < len(expression):
        found = _TOKEN.match(expression, at)
        if found is None or found.lastgroup is None:
            raise NotPromQL(f"{expression[at : at + 20]!r} in {expression!r}")
        yield Token(found.lastgroup, found.group())
        at = found.end()


def _list(tokens: Sequence[Token], at: int) -> tuple[set[str], int]:
    names: set[str] = set()
    while tokens[at].text != ")":
        if tokens[at].text != ",":
            if tokens[at].kind != "name":
                raise NotPromQL(f"{tokens[at].text!r} among labels")
            names.add(tokens[at].text)
        at += 1
    return names, at + 1


def _matches(tokens: Sequence[Token], at: int, expression: str) -> tuple[tuple[tuple[str, str, str], ...], int]:
    matches: list[tuple[str, str, str]] = []
    while tokens[at].text != "}":
        label, operator, value = (token.text for token in tokens[at : at + 3])
        kinds = (tokens[at].kind, tokens[at + 2].kind)
        if operator not in {"=", "!=", "=~", "!~"} or kinds != ("name", "string"):
            raise NotPromQL(f"{label}{operator}{value} in {expression!r}")
        matches.append((label, operator, value[1:-1]))
        at += 3
        if tokens[at].text == ",":
            at += 1
    return tuple(matches), at + 1
