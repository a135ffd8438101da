"""Numbers as people read them, each with its place in the JSON form: all forms of the report write them so."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Content = Mapping[str, Any]
"""A report as ``Report.to_dict`` gives it, or as it was stored."""

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
NOTHING = "–"


@dataclass(frozen=True)
class Number:
    """A number of the report.

    Attributes:
        field: where it is in the JSON form, as a JSON pointer (RFC 6901).
        value: what is there.
        text: the same for people.
    """

    field: str
    value: Any
    text: str

    def __str__(self) -> str:
        """The text."""
        return self.text


def pointer(*path: str | int) -> str:
    """The JSON pointer of a path of names and indices."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def number(content: Content, form: str, *path: str | int) -> Number:
    """The number at a path, as its form writes it; a dash where there is none."""
    value: Any = content
    for part in path:
        value = value[part] if value is not None else None
    return Number(pointer(*path), value, NOTHING if value is None else FORMS[form](value))


def shell(words: Sequence[str]) -> str:
    """Words of a command line, quoted for a shell, an option a line."""
    quoted = [*map(shlex.quote, words)]
    end = quoted.index("--") if "--" in quoted else len(quoted)
    lines = [" ".join(quoted[:2]), *quoted[2:end], *([" ".join(quoted[end:])] if quoted[end:] else [])]
    return " \\\n  ".join(lines)


def size(value: float) -> str:
    """Bytes: ``1.36 MB``, ``512 B``."""
    for factor, prefix in _PREFIXES:
        if abs(value) >= 0.9995 * factor:
            return f"{_three(value / factor)} {prefix}B"
    return f"{value:.0f} B"


def signed_size(value: float) -> str:
    """More or fewer bytes: ``−3.60 MB``, ``+111 B``."""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{size(abs(value))}"


def duration(value: float) -> str:
    """Seconds: ``3.26 ms``, ``16.5 µs``, ``12.3 s``."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if abs(value) >= 0.9995 * factor:
            return f"{_three(value / factor)} {unit}"
    return f"{_three(value / 1e-6)} µs" if abs(value) >= 5e-9 else "0 µs"


def times(value: float) -> str:
    """A ratio: ``2.52``, ``14.3``, ``0.98``."""
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def percent(value: float) -> str:
    """A share: ``27 %``, ``0.4 %``."""
    return f"{100 * value:.1f} %" if abs(value) < 0.0995 else f"{100 * value:.0f} %"


def score(value: float) -> str:
    """Of a metric: ``0.5925``."""
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def signed(value: float) -> str:
    """A difference of scores: ``+0.0025``."""
    return f"{value:+.4f}".replace("-", "−") if abs(value) < 1000 else f"{value:+.4g}".replace("-", "−")


def points(value: float) -> str:
    """A difference of shares in percentage points, without its sign: ``0.3``."""
    return f"{100 * abs(value):.1f}" if abs(value) >= 0.00095 or value == 0 else f"{100 * abs(value):.2f}"


def signed_points(value: float) -> str:
    """The same with its sign."""
    return ("−" if value < 0 else "") + points(value)


def turned(form: Callable[[float], str]) -> Callable[[float], str]:
    """The form for the number with the other sign: a drop, said as a gain."""
    return lambda value: form(-value if value else 0.0)


def plain(value: float) -> str:
    """As it is, without a sign: a difference of scores in words."""
    return f"{abs(value):.4f}" if 5e-5 <= abs(value) < 1000 or value == 0 else f"{abs(value):.2g}"


def signed_plain(value: float) -> str:
    """The same with its sign."""
    return ("−" if value < 0 else "") + plain(value)


def _three(value: float) -> str:
    """Three digits."""
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}"


FORMS: Mapping[str, Callable[[Any], str]] = {
    "bytes": size,
    "signed bytes": signed_size,
    "seconds": duration,
    "times": times,
    "percent": percent,
    "score": score,
    "signed": signed,
    "points": points,
    "signed points": signed_points,
    "gained points": turned(signed_points),
    "plain": plain,
    "signed plain": signed_plain,
    "gained plain": turned(signed_plain),
    "count": lambda value: f"{value:,.0f}",
    "decibel": lambda value: f"{value:.1f} dB",
    "load": lambda value: f"{value:.2f}",
    "version": str,
}
