"""Numbers as words: few digits, a typographic minus sign, nothing where there is none."""

import math
from collections.abc import Sequence

MINUS = "−"


def figure(value: float | None, digits: int = 3) -> str:
    """Return a number with so many digits that count; "" for None and NaN.

    Args:
        value: The number; whole numbers below a million keep all their digits.
        digits: At least 1.
    """
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value == int(value) and abs(value) < 1e6:
        words = f"{value:,.0f}"
    elif 1e-3 <= abs(value) < 1e5:
        words = f"{value:,.{_decimals(abs(value), digits)}f}"
    else:
        words = f"{value:.{digits - 1}e}"
    return words.replace("-", MINUS)


def interval(
    estimate: float | None,
    low: float | None,
    high: float | None,
    *,
    decimals: int | None = None,
) -> str:
    """Return `0.650 [0.601, 0.702]`, all with the decimals that the largest of them needs.

    Args:
        estimate: None gives "".
        low: None leaves the bounds out.
        high: Likewise.
        decimals: Of all of them; by default what shows three digits of the largest.
    """
    if estimate is None:
        return ""
    if low is None or high is None:
        return figure(estimate)
    values = (estimate, low, high)
    largest = max(map(abs, values))
    if not math.isfinite(largest) or not (largest == 0 or 1e-3 <= largest < 1e5):
        words = [figure(value) for value in values]
    else:
        places = _decimals(largest, 3) if decimals is None else decimals
        words = [f"{value:,.{places}f}".replace("-", MINUS) for value in values]
    return f"{words[0]} [{words[1]}, {words[2]}]"


def ticks_as_words(ticks: Sequence[float]) -> list[str]:
    """Return the labels of an axis: the decimals that tell its ticks apart, the same for all."""
    gaps = [after - before for before, after in zip(ticks, ticks[1:], strict=False)]
    largest = max(map(abs, ticks), default=0.0)
    step = min(gaps, default=largest)
    if largest >= 1e6 or step < 1e-4:
        return [figure(tick) for tick in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step * 10**decimals, 6) % 1:  # a step of 2.5 needs one more than its power of ten
        decimals += 1
    return [f"{tick:,.{decimals}f}".replace("-", MINUS) for tick in ticks]


def _decimals(value: float, digits: int) -> int:
    """Return how many decimals show so many digits of a value from 0.001."""
    power = math.floor(math.log10(value)) if value else 0
    return max(0, digits - 1 - max(-1, power))
