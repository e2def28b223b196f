"""Calibration: does a reward model that is 90% sure prefer the better answer 9 times in 10?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textenvs.errors import ConfigError, MissingDependencyError

BINS = 10


@dataclass(frozen=True)
class CalibrationBin:
    """Pairs of which a model was about equally sure.

    Attributes:
        low: Least probability of the bin.
        high: Greatest; only the last bin includes it.
        pairs: How many pairs.
        predicted: Mean probability, of the answer the model prefers.
        observed: Share of pairs in which that answer is the better one.
    """

    low: float
    high: float
    pairs: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Calibration:
    """A reliability table (Guo et al., arXiv:1706.04599, section 2).

    Attributes:
        bins: Those that hold pairs, from unsure to sure.
        error: The expected calibration error: the mean of |observed - predicted| over bins,
            each weighted by its pairs, in [0, 1].
    """

    bins: tuple[CalibrationBin, ...]
    error: float


def calibrate(margins: np.ndarray, *, bins: int = BINS) -> Calibration:
    """Return how well probabilities agree with what was seen.

    The probability that the first answer is better is sigmoid(difference of logits), the
    model of the ranking loss (Bradley and Terry, 1952). Which of a pair comes first is
    nobody's choice, so each pair is counted from the side of the answer that the model
    prefers: probabilities lie in [0.5, 1]. A pair of equal logits is right by half.

    Args:
        margins: float [M], logit of the better answer less that of the worse; at least one.
        bins: Of equal width, at least one.

    Raises:
        ConfigError: if there is no pair or no bin.
    """
    if not len(margins) or bins < 1:
        raise ConfigError(
            f"a calibration needs at least one pair and one bin, got {len(margins)} and {bins}"
        )
    sure = 1.0 / (1.0 + np.exp(-np.abs(margins)))
    right = 0.5 + 0.5 * np.sign(margins)
    edges = np.linspace(0.5, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, sure, side="right") - 1, 0, bins - 1)
    found = []
    for i in range(bins):
        own = place == i
        if own.any():
            shares = float(sure[own].mean()), float(right[own].mean())
            found.append(
                CalibrationBin(edges[i].item(), edges[i + 1].item(), int(own.sum()), *shares)
            )
    gaps = sum(b.pairs * abs(b.observed - b.predicted) for b in found)
    return Calibration(tuple(found), float(gaps / len(margins)))


def plot_calibration(calibrations: Mapping[str, Calibration], path: Path) -> None:
    """Draw reliability diagrams into one picture; the same data gives the same bytes.

    Args:
        calibrations: Name of a model -> its table.
        path: Of the picture; its suffix says the format, e.g. ".svg" or ".png".

    Raises:
        MissingDependencyError: if matplotlib is absent.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib", "a calibration plot", 'pip install "textenvs[bench]"'
        ) from error
    with matplotlib.rc_context({"svg.hashsalt": "textenvs", "svg.fonttype": "none"}):
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0.5, 1], [0.5, 1], color="grey", linestyle=":", label="perfectly calibrated")
        for name, calibration in calibrations.items():
            predicted = [b.predicted for b in calibration.bins]
            observed = [b.observed for b in calibration.bins]
            label = f"{name}: expected error {calibration.error:.3f}"
            axes.plot(predicted, observed, marker="o", label=label)
            sizes = [str(b.pairs) for b in calibration.bins]
            for x, y, text in zip(predicted, observed, sizes, strict=True):
                axes.annotate(text, (x, y), (4, -10), textcoords="offset points", fontsize=7)
        axes.set_xlabel("predicted probability that the preferred answer is better")
        axes.set_ylabel("observed share (small figures: pairs)")
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.legend(loc="lower right")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
