"""Numbers as a reader wants them: three significant digits, a unit, the same rounding everywhere.

Everything is a pure function from a value to plain text with ordinary spaces, for terminals; `thin` sets
the narrow no-break space between a number and its unit, for pages. Values that are not finite become
`not known`, never `nan`.

Example:
    >>> si(10512), size(13800), milliseconds(0.0684), factor(6.13), change(-0.21)
    ('10.5 k', '13.8 kB', '0.068 ms', '6.1×', '−0.21 points')
"""

from __future__ import annotations

import math
import re

NOT_KNOWN = "not known"
MINUS = "−"
NARROW_SPACE = "\u202f"
NO_BREAK_SPACE = "\u00a0"
SAME_BELOW = 1.05
"""Ratios nearer to 1 than this are told as `no smaller`, `no faster`: nobody would notice them."""

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_UNIT = re.compile(r"(?<=[0-9]) (?=(?:%|×|[kMGT]?B\b|[kMGT]\b|m?s\b|min\b|h\b))")
_WORD = re.compile(r"(?<=[0-9]) (?=(?:points|times)\b)")


def si(value: float, like: float | None = None) -> str:
    """A count with a decimal prefix and three significant digits.

    Args:
        value: the count.
        like: another count that this one stands beside; its prefix is used when the value is at least a
            tenth of it, so that `0.40 M` stands beside `13.9 M`.

    >>> si(842), si(403_000), si(403_000, like=13_900_000), si(999_999)
    ('842', '403 k', '0.40 M', '1.00 M')
    """
    if not math.isfinite(value):
        return NOT_KNOWN
    if like is not None and math.isfinite(like):
        scale, prefix = _prefix(abs(like))
        if scale > 1 and 0.1 <= abs(value) / scale < 1:
            return f"{_signed(value / scale, 2)} {prefix}"
    scale, prefix = _prefix(abs(value))
    if scale == 1:
        return _signed(value, 0 if float(value).is_integer() else 2)
    return f"{three(value / scale)} {prefix}"


def size(value: float) -> str:
    """Bytes with a decimal prefix (1 kB is 1000 bytes).

    >>> size(512), size(13_800), size(13_100_000)
    ('512 B', '13.8 kB', '13.1 MB')
    """
    text = si(value)
    if text == NOT_KNOWN:
        return text
    return text + "B" if text[-1].isalpha() else text + " B"


def milliseconds(value: float) -> str:
    """A latency in milliseconds: three decimals below one, three digits above.

    >>> milliseconds(0.068), milliseconds(0.0068), milliseconds(4.567), milliseconds(1234.0)
    ('0.068 ms', '0.0068 ms', '4.57 ms', '1,234 ms')
    """
    if not math.isfinite(value):
        return NOT_KNOWN
    return f"{latency(value)} ms"


def millijoules(value: float) -> str:
    """An energy in millijoules, with as many digits as a latency has.

    >>> millijoules(0.068), millijoules(4.567)
    ('0.068 mJ', '4.57 mJ')
    """
    return f"{latency(value)} mJ" if math.isfinite(value) else NOT_KNOWN


def latency(value: float) -> str:
    """The number of `milliseconds` without its unit, for columns whose header has it."""
    if not math.isfinite(value):
        return NOT_KNOWN
    magnitude = abs(value)
    if magnitude >= 1:
        return three(value)
    if magnitude >= 0.01 or magnitude == 0:
        return _signed(value, 3)
    return _signed(value, 1 - math.floor(math.log10(magnitude)))


def percent(value: float, decimals: int = 2) -> str:
    """A share or an accuracy that is already in percent.

    >>> percent(99.0637), percent(5.0, decimals=0)
    ('99.06 %', '5 %')
    """
    return f"{_signed(value, decimals)} %" if math.isfinite(value) else NOT_KNOWN


def share(part: float, whole: float) -> str:
    """Part of a whole in percent, with a digit more below ten, and never a false `0 %` or `100 %`.

    >>> share(1, 3), share(5, 32), share(1, 100_000), share(99_999, 100_000), share(0, 7)
    ('33 %', '16 %', 'under 0.1 %', 'over 99.9 %', '0 %')
    """
    if not whole or not math.isfinite(part) or not math.isfinite(whole):
        return NOT_KNOWN
    value = 100.0 * part / whole
    if value in (0.0, 100.0):
        return f"{value:.0f} %"
    if 0 < value < 0.1:
        return "under 0.1 %"
    if 99.9 < value < 100:
        return "over 99.9 %"
    return f"{value:.1f} %" if value < 9.95 or 99 < value < 100 else f"{value:.0f} %"


def points(value: float) -> str:
    """Percentage points without a direction.

    >>> points(0.214), points(-0.5)
    ('0.21 points', '−0.50 points')
    """
    return f"{_signed(value, 2)} points" if math.isfinite(value) else NOT_KNOWN


def change(value: float) -> str:
    """Percentage points with their direction; what rounds to nothing is said so.

    >>> change(-0.21), change(0.054), change(0.001)
    ('−0.21 points', '+0.05 points', 'no change')
    """
    if not math.isfinite(value):
        return NOT_KNOWN
    if abs(value) < 0.005:
        return "no change"
    return f"{'+' if value > 0 else ''}{_signed(value, 2)} points"


def plus_minus(value: float) -> str:
    """A difference with its sign and two decimals, for columns whose header has the unit.

    >>> plus_minus(-0.2), plus_minus(0.054), plus_minus(-0.001)
    ('−0.20', '+0.05', '0.00')
    """
    if not math.isfinite(value):
        return NOT_KNOWN
    text = _signed(value, 2)
    return text if value < 0 or text == "0.00" else f"+{text}"


def factor(value: float) -> str:
    """A ratio with a multiplication sign: two decimals below two, one below ten, none above.

    >>> factor(1.234), factor(6.13), factor(34.2), factor(1949.0), factor(0.706)
    ('1.23×', '6.1×', '34×', '1,949×', '0.71×')
    """
    return f"{ratio(value)}×" if math.isfinite(value) else NOT_KNOWN


def ratio(value: float) -> str:
    """The number of `factor` without its sign."""
    if not math.isfinite(value):
        return NOT_KNOWN
    if value < 1.995:
        return f"{value:.2f}" if value >= 0.095 else f"{value:.2g}"
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def times(value: float) -> str:
    """A ratio above one inside a sentence: whole from five on, without needless zeros below.

    >>> times(312.4), times(6.13), times(2.5), times(2.04), times(1.3)
    ('312', '6', '2.5', '2', '1.3')
    """
    if not math.isfinite(value):
        return NOT_KNOWN
    if value >= 4.95:
        return f"{value:,.0f}"
    text = f"{value:.1f}" if value >= 1.15 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".")


def count(value: int) -> str:
    """A whole number with thousands separators: `10,000`."""
    return f"{value:,}"


def precision_text(precision: str) -> str:
    """A precision as it is written in words: `FP32`, `INT8`, but `packed` and `1/1 (W/A)`.

    >>> precision_text("int8"), precision_text("packed")
    ('INT8', 'packed')
    """
    return precision.upper() if re.fullmatch(r"b?fp?\d+|int\d+", precision) else precision


def plural(value: int, one: str, many: str = "") -> str:
    """A count with its noun: `1 image`, `10,000 images`."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Wall time with at most two units.

    >>> duration(0.42), duration(8.25), duration(75), duration(7380), duration(59.97)
    ('0.42 s', '8.2 s', '1 min 15 s', '2 h 3 min', '1 min 0 s')
    """
    if not math.isfinite(seconds):
        return NOT_KNOWN
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def three(value: float) -> str:
    """Three significant digits without an exponent: `3.27`, `13.9`, `842`, `1,234`."""
    magnitude = abs(value)
    return _signed(value, 2 if magnitude < 9.995 else 1 if magnitude < 99.95 else 0)


def digits(value: float) -> str:
    """A value of any size as a table of measurements prints it: four decimals below ten, one above.

    >>> digits(0.1061), digits(-1250.5876), digits(7786.2084)
    ('0.1061', '−1,250.6', '7,786.2')
    """
    return _signed(value, 4 if abs(value) < 10 else 1) if math.isfinite(value) else NOT_KNOWN


def thin(text: str) -> str:
    """The same text with narrow no-break spaces before units, and unbroken before `times` and `points`."""
    return _WORD.sub(NO_BREAK_SPACE, _UNIT.sub(NARROW_SPACE, text))


def _prefix(magnitude: float) -> tuple[float, str]:
    """The largest prefix that leaves at least one, after rounding to three digits."""
    for scale, letter in PREFIXES:
        if magnitude >= 0.9995 * scale:
            return scale, letter
    return 1.0, ""


def _signed(value: float, decimals: int) -> str:
    """Fixed decimals with a real minus sign, and no minus before a value that rounds to zero."""
    text = f"{value:,.{decimals}f}"
    if text.startswith("-"):
        return MINUS + text[1:] if any(digit in "123456789" for digit in text) else text[1:]
    return text
