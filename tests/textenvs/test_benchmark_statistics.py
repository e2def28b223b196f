"""Statistics of a benchmark: known answers, invariances, coverage."""

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from textenvs.benchmark.statistics import over_optimisation
from textenvs.benchmark.statistics.comparison import (
    holm,
    paired_difference,
    probability_of_improvement,
)
from textenvs.benchmark.statistics.intervals import (
    Interval,
    iqm_interval,
    iqm_pivot,
    mean_interval,
    mean_pivot,
)
from textenvs.benchmark.statistics.iqm import interquartile_mean, iqm_variance
from textenvs.benchmark.statistics.kl_curves import at_matched_kl, on_frontier, reach
from textenvs.benchmark.statistics.learning import normalised_area, tokens_to
from textenvs.benchmark.statistics.length_bias import (
    length_residual,
    partial_spearman,
    slope,
    spearman,
)
from textenvs.benchmark.statistics.peak import fall_from_peak
from textenvs.benchmark.statistics.profiles import profile
from textenvs.benchmark.statistics.resampling import answered, draw
from textenvs.errors import ConfigError, MissingDependencyError

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
FEW = 200  # resamples, where only equality matters
SCORES = arrays(np.float64, (6, 4), elements=st.floats(-10, 10, width=32))
INTERVALS = [mean_interval, iqm_interval]


def close(a: Interval, b: Interval) -> bool:
    return bool(np.allclose(a, b, rtol=1e-6, atol=1e-8, equal_nan=True))


# Interquartile mean


@pytest.mark.parametrize("n", [1, 3, 4, 7, 10, 20])
def test_iqm_is_the_trimmed_mean_of_scipy(n: int) -> None:
    values = np.random.default_rng(n).normal(size=(5, n))
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=1))


def test_iqm_variance_is_that_of_yuen() -> None:
    values = np.random.default_rng(0).normal(size=12)
    winsorised = stats.mstats.winsorize(values, (0.25, 0.25)).data
    assert iqm_variance(values) == pytest.approx(winsorised.var(ddof=1) * 11 / (6 * 5))


# Intervals


def test_below_five_seeds_the_mean_has_the_interval_of_student() -> None:
    values = np.array([[1.0], [2.0], [4.0], [3.5]])
    expected = stats.t.interval(0.95, 3, values.mean(), stats.sem(values[:, 0]))
    assert mean_interval(values)[1:3] == pytest.approx(expected)
    expected_p = stats.ttest_1samp(values[:, 0], 2).pvalue
    assert mean_pivot(values).p_value(2) == pytest.approx(expected_p)


def test_the_error_of_a_mean_counts_seeds_and_prompts() -> None:
    generator = np.random.default_rng(1)
    # Variance of the mean: 1 / 200 of seeds, 4 / 100 of prompts, 9 / 20,000 of the rest.
    scores = generator.normal(size=(200, 1)) + generator.normal(0, 2, (1, 100))
    scores = scores + generator.normal(0, 3, (200, 100))
    assert mean_pivot(scores, resamples=FEW).error ** 2 == pytest.approx(0.0454, rel=0.25)
    # Negative control: over seeds alone the prompts would be left out.
    assert scores.mean(axis=1).var(ddof=1) / 200 < 0.01


def test_one_seed_gives_no_bounds_and_equal_scores_no_width() -> None:
    alone = mean_interval(np.array([[0.25, 0.75]]))
    assert (alone.estimate, alone.n) == (0.5, 1) and math.isnan(alone.low)
    assert mean_interval(np.full((10, 5), 0.5), resamples=FEW) == (0.5, 0.5, 0.5, 10)
    assert mean_pivot(np.full((10, 5), 0.5), resamples=FEW).p_value(0.5) == 1.0
    assert math.isnan(mean_pivot(np.full((1, 5), 0.5)).p_value())


@pytest.mark.parametrize("seeds", [5, 10])
def test_seeds_that_agree_but_for_one_have_the_interval_of_student(seeds: int) -> None:
    scores = np.full(seeds, 32.0)
    scores[0] = 31.5
    wanted = stats.t.interval(0.95, seeds - 1, loc=scores.mean(), scale=stats.sem(scores))
    assert mean_interval(scores)[1:3] == pytest.approx(wanted)


@pytest.mark.parametrize("interval", INTERVALS)
def test_one_seed_of_resampling_gives_one_interval(interval: Callable[..., Interval]) -> None:
    scores = np.random.default_rng(0).normal(size=(10, 20))
    assert interval(scores, seed=3) == interval(scores.copy(), seed=3)
    draw.cache_clear()
    assert interval(scores, seed=3) == interval(scores, seed=3)
    assert interval(scores, seed=3) != interval(scores, seed=4)


@pytest.mark.parametrize("interval", INTERVALS)
@QUICK
@given(scores=SCORES, shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_intervals_move_and_stretch_with_the_scores(
    interval: Callable[..., Interval], scores: np.ndarray, shift: float, scale: float
) -> None:
    before = interval(scores, resamples=FEW)
    if before.high - before.low < 1e-3:
        return  # rounding then decides which resamples have no spread
    after = interval(shift + scale * scores, resamples=FEW)
    moved = [shift + scale * value for value in before[:3]]
    assert np.allclose(after[:3], moved, rtol=1e-4, atol=1e-4)


@QUICK
@given(scores=SCORES, order=st.permutations(range(6)))
def test_the_order_of_seeds_changes_no_estimate(scores: np.ndarray, order: list[int]) -> None:
    for pivot in (mean_pivot, iqm_pivot):
        a, b = pivot(scores, resamples=FEW), pivot(scores[order], resamples=FEW)
        assert a.estimate == pytest.approx(b.estimate, abs=1e-9)
        assert a.error == pytest.approx(b.error, abs=1e-7)


@QUICK
@given(scores=SCORES)
def test_a_higher_level_gives_a_wider_interval(scores: np.ndarray) -> None:
    pivot = mean_pivot(scores, resamples=FEW)
    narrow, wide = pivot.interval(0.8), pivot.interval(0.95)
    assert wide.low <= narrow.low and narrow.high <= wide.high


def test_missing_scores_take_the_mean_of_their_seed() -> None:
    nan = float("nan")
    scores = np.array([[1.0, nan, 3.0], [nan, nan, nan], [5.0, 5.0, 8.0]])
    assert answered(scores).tolist() == [[1.0, 2.0, 3.0], [5.0, 5.0, 8.0]]
    interval = mean_interval(scores)
    assert (interval.estimate, interval.n) == (4.0, 2)
    assert mean_interval(np.full((3, 2), nan)).n == 0


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 100"):
        draw(5, 5, resamples=10)
    with pytest.raises(ConfigError, match="needs a seed"):
        draw(0, 5)


def test_without_scipy_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingDependencyError, match="textenvs\\[bench\\]"):
        mean_interval(np.array([[1.0], [2.0]]))


def coverage(interval: Callable[[np.ndarray], Interval], n: int, simulations: int) -> float:
    """Share of simulated studies of mean 0, normal over seeds, whose interval holds it."""
    held = 0
    for k in range(simulations):
        scores = np.random.default_rng([n, k]).normal(size=(n, 1))
        found = interval(scores)
        held += found.low <= 0 <= found.high
    return held / simulations


def percentile(scores: np.ndarray) -> Interval:
    drawn = draw(len(scores), 1, resamples=500).seed_means(scores).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(scores.mean()), low, high, len(scores))


@pytest.mark.parametrize("interval", INTERVALS)
def test_ten_seeds_are_covered_as_often_as_stated(interval: Callable[..., Interval]) -> None:
    # The standard error of a share of 1,000 is 0.7%; the full table is in
    # benchmarks/interval_coverage.
    assert 0.93 <= coverage(lambda s: interval(s, resamples=500), 10, 1000) <= 0.97


def test_the_percentile_interval_of_three_seeds_is_not() -> None:
    assert coverage(percentile, 3, 1000) < 0.85
    assert coverage(mean_interval, 3, 1000) > 0.92


# Comparisons


def test_pairing_removes_what_seeds_and_prompts_have_in_common() -> None:
    generator = np.random.default_rng(0)
    common = generator.normal(size=(10, 1)) + generator.normal(size=(1, 30))
    a = common + 0.1 + generator.normal(0, 0.05, (10, 30))
    b = common + generator.normal(0, 0.05, (10, 30))
    paired = paired_difference(a, b)
    assert paired.interval().low > 0.05 and paired.p_value() < 0.01
    # Negative control: seeds paired wrongly hide it.
    assert paired_difference(a, b[np.roll(np.arange(10), 3)]).p_value() > 0.05
    with pytest.raises(ConfigError, match="one shape"):
        paired_difference(a, b[:5])


def test_no_difference_is_seldom_called_one() -> None:
    called = 0
    for k in range(300):
        generator = np.random.default_rng(k)
        a, b = generator.normal(size=(2, 6, 20))
        called += paired_difference(a, b, resamples=500).p_value() < 0.05
    assert called / 300 < 0.09


def test_holm_by_hand() -> None:
    nan = float("nan")
    assert holm([0.04, 0.01, nan, 0.03]) == pytest.approx([0.06, 0.03, nan, 0.06], nan_ok=True)
    assert holm([0.6, 0.7]) == [1.0, 1.0]


@QUICK
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_raises_p_values_and_keeps_their_order(values: list[float]) -> None:
    corrected = holm(values)
    assert all(c >= v for c, v in zip(corrected, values, strict=True))
    order = np.argsort(values, kind="stable")
    assert np.all(np.diff(np.array(corrected)[order]) >= 0)


def test_probability_of_improvement_is_the_mann_whitney_statistic() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 6, (7, 1)) / 5, generator.integers(0, 6, (9, 1)) / 5
    expected = stats.mannwhitneyu(a[:, 0], b[:, 0]).statistic / 63
    found = probability_of_improvement(a, b)
    assert found.estimate == pytest.approx(expected)
    assert 0 <= found.low <= found.estimate <= found.high <= 1
    assert probability_of_improvement(b, a).estimate == pytest.approx(1 - expected)
    assert probability_of_improvement(a, a).estimate == pytest.approx(0.5)


def test_a_profile_is_the_share_of_seeds_above() -> None:
    scores = np.array([[0.0, 0.2], [0.4, 0.6], [0.9, 0.9], [0.5, 0.5]])
    found = profile(scores, np.array([0.0, 0.3, 0.5, 0.9]))
    assert found.share.tolist() == [1.0, 0.75, 0.25, 0.0]
    assert np.all(found.low <= found.share) and np.all(found.share <= found.high)


# Gold against KL


def test_gold_at_a_matched_kl_is_interpolated_in_its_square_root() -> None:
    gold = np.array([[0.0, 1.0, 0.4], [0.0, 0.5, 0.5]])
    kl = np.array([[0.0, 4.0, 16.0], [0.0, 1.0, 1.0]])
    assert at_matched_kl(gold, kl, 1.0).tolist() == [0.5, 0.5]
    at_nine = at_matched_kl(gold, kl, 9.0)
    assert at_nine[0] == pytest.approx(0.7) and math.isnan(at_nine[1])
    assert at_matched_kl(gold[:, :, None], kl, 0.0)[:, 0].tolist() == [0.0, 0.0]
    assert reach(kl) == 16.0 and reach(kl, 1.0) == 1.0


def test_the_frontier_has_no_point_that_another_beats() -> None:
    kl, gold = np.array([0.0, 1.0, 2.0, 3.0, 1.0]), np.array([0.2, 0.5, 0.4, 0.6, 0.5])
    assert on_frontier(kl, gold).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("form", over_optimisation.FORMS)
def test_a_fit_finds_the_curve_it_was_given(form: over_optimisation.Form) -> None:
    kl = np.tile(np.linspace(0, 5, 9) ** 2, (8, 1))
    alpha, beta = 0.4, 0.1
    true = 0.3 + over_optimisation.basis(form, np.sqrt(kl)) @ np.array([alpha, beta])
    generator = np.random.default_rng(0)
    gold = true[:, :, None] + generator.normal(0, 0.1, (8, 9, 20))
    gold -= (gold[:, :1] - 0.3).mean(axis=(0, 2))
    fit = over_optimisation.fit(form, gold, kl)
    assert fit is not None
    assert fit.alpha.estimate == pytest.approx(alpha, abs=0.06)
    assert fit.beta.estimate == pytest.approx(beta, abs=0.02)
    peak = {"best_of_n": alpha / (2 * beta), "rl": math.exp(alpha / beta - 1)}[form]
    assert fit.peak.low <= peak <= fit.peak.high
    d = np.linspace(0, 2 * peak, 4001)
    exact = over_optimisation.basis(form, d) @ np.array([alpha, beta])
    assert d[exact.argmax()] == pytest.approx(peak, abs=0.01)
    assert fit.curve(np.zeros(1))[0] == pytest.approx(fit.start)


def test_a_curve_that_only_rises_has_no_finite_peak() -> None:
    kl = np.tile(np.linspace(0, 3, 6) ** 2, (5, 1))
    gold = (0.2 + 0.1 * np.sqrt(kl) + 0.02 * kl)[:, :, None] * np.ones(4)
    fit = over_optimisation.fit("best_of_n", gold, kl)
    assert fit is not None and math.isinf(fit.peak.estimate) and fit.peak_inside == 0
    assert fit.r_squared == pytest.approx(1.0)
    falling = over_optimisation.peak_of("best_of_n", np.array(-1.0), np.array(0.5))
    assert falling == 0


def test_a_fit_needs_distances() -> None:
    assert over_optimisation.fit("rl", np.ones((5, 3, 2)), np.zeros((5, 3))) is None


# Learning curves


def test_the_area_is_the_mean_height_and_the_threshold_is_interpolated() -> None:
    curve = np.array([[0.0, 1.0, 1.0], [0.5, 0.5, 0.5]])
    timesteps = np.array([[0.0, 10.0, 40.0], [0.0, 0.0, 0.0]])
    assert normalised_area(curve, timesteps).tolist() == [0.875, 0.5]
    assert normalised_area(curve[:, :, None], timesteps)[:, 0].tolist() == [0.875, 0.5]
    assert tokens_to(curve, timesteps, 0.25).tolist() == [2.5, 0.0]
    assert tokens_to(curve, timesteps, 2.0).tolist() == [math.inf, math.inf]


# Length


def test_spearman_is_that_of_scipy_and_constants_have_none() -> None:
    a, b = np.random.default_rng(0).integers(0, 5, (2, 3, 30)).astype(float)
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert spearman(a, b) == pytest.approx(expected)
    assert math.isnan(spearman(np.ones(5), np.arange(5.0)))


def test_a_partial_correlation_forgets_the_common_cause() -> None:
    generator = np.random.default_rng(0)
    cause = generator.normal(size=2000)
    a, b = cause + generator.normal(size=(2, 2000))
    assert spearman(a, b) > 0.4
    assert abs(partial_spearman(a, b, cause)) < 0.06
    # Negative control: a variable that causes neither takes nothing away.
    assert partial_spearman(a, b, generator.normal(size=2000)) > 0.4
    assert partial_spearman(a, b, a) == 0


def test_the_gain_at_equal_length_is_the_residual() -> None:
    lengths = np.array([[1.0, 2.0, 3.0]])
    first = 0.1 * lengths
    assert slope(first, lengths) == pytest.approx([0.1])
    longer = length_residual(first, lengths, 0.1 * (lengths + 4), lengths + 4)
    assert longer == pytest.approx(np.zeros((1, 3)), abs=1e-12)
    better = length_residual(first, lengths, first + 0.3, lengths)
    assert better.mean() == pytest.approx(0.3)


# The peak


def test_the_fall_from_the_peak_is_measured_where_there_is_one() -> None:
    means = np.array([0.3, 0.6, 0.5, 0.2])
    gold = np.tile(means[None, :, None], (6, 1, 8))
    proxy = np.tile(np.array([0.1, 0.2, 0.4, 0.7])[None, :, None], (6, 1, 8))
    fall = fall_from_peak(gold, proxy)
    assert fall.gold == pytest.approx(np.full((6, 8), 0.4)) and fall.peak == 1
    assert fall.proxy == pytest.approx(np.full((6, 8), 0.5))


def test_the_luck_of_the_highest_checkpoint_is_not_counted_as_a_fall() -> None:
    falls, naive = [], []
    for k in range(200):
        generator = np.random.default_rng(k)
        gold = generator.normal(0, 0.1, (6, 10, 1)) + generator.normal(0, 0.5, (6, 10, 16))
        falls.append(fall_from_peak(gold, gold).gold.mean())
        means = gold.mean(axis=(0, 2))
        naive.append(means.max() - means[-1])
    error = np.std(falls) / math.sqrt(200)
    assert abs(np.mean(falls)) < 3 * error
    assert np.mean(naive) > 10 * np.std(naive) / math.sqrt(200)  # negative control
