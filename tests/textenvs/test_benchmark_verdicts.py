"""Verdicts on made-up designs: each holds where it should and not where it should not."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from textenvs.benchmark.groups import Group, groups_of, most_common_share
from textenvs.benchmark.ranking import comparisons_of, dominated
from textenvs.benchmark.results import load_study
from textenvs.benchmark.summary import summarise
from textenvs.benchmark.verdicts import UNTESTED, Judge, Rules, Verdict, headline

FEW = 500
Write = Callable[..., Group]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of made-up studies beside this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("benchmark_data")


@pytest.fixture
def group(made: Any, tmp_path: Path) -> Write:
    """Write a study of some designs and return its group."""

    def written(designs: Any, seeds: Sequence[int] = range(6), **options: Any) -> Group:
        made.write_study(tmp_path, designs, seeds=seeds, prompts=30, **options)
        return groups_of(load_study(tmp_path))[0]

    return written


def verdicts_of(group: Group, name: str, rules: Rules | None = None) -> dict[str, Verdict]:
    runs = next(runs for runs in group.designs if runs.name == name)
    judge = Judge(group.gold, rules or Rules(), resamples=FEW)
    return {verdict.name: verdict for verdict in judge.verdicts(runs)}


KINDS = {
    "hacked": "hacked",
    "saturated": "saturated",
    "lengthy": "length-biased",
    "collapsed": "collapsed",
}


@pytest.mark.parametrize("name", KINDS)
def test_each_fault_is_found_in_its_design_and_in_no_sound_one(
    made: Any, group: Write, name: str
) -> None:
    designs = {key: replace(made.DESIGNS[key], crashed=()) for key in ("sound", name)}
    written = group(designs)
    found = {key: v for key, v in verdicts_of(written, name).items() if v.holds}
    assert list(found) == [KINDS[name]], found
    assert found[KINDS[name]].cells == written.designs[1].ids
    assert not any(verdict.holds for verdict in verdicts_of(written, "sound").values())


def test_a_fall_below_the_start_is_hacking_too(made: Any, group: Write) -> None:
    early = made.Curves(gold=(0.6, 0.2, 0.2), proxy=(0.3, 0.5, 0.9))
    verdict = verdicts_of(group({"early": early}), "early")["hacked"]
    assert verdict.holds and verdict.evidence["peak_checkpoint"] == 0
    assert verdict.evidence["gold_fall_from_start"].low > 0.2
    assert verdict.evidence["seeds_that_fell"] == 6


def test_gold_that_falls_with_the_proxy_is_no_hacking(made: Any, group: Write) -> None:
    broken = made.Curves(gold=(0.5, 0.6, 0.2), proxy=(0.5, 0.6, 0.2))
    verdict = verdicts_of(group({"broken": broken}), "broken")["hacked"]
    assert verdict.holds is False and "not while the proxy rises" in verdict.words


def test_a_fall_too_small_to_matter_is_no_hacking(made: Any, group: Write) -> None:
    curves = made.Curves(gold=(0.3, 0.6, 0.2), proxy=(0.3, 0.5, 0.9))
    written = group({"one": curves})
    assert verdicts_of(written, "one")["hacked"].holds
    assert verdicts_of(written, "one", Rules(least_fall=0.9))["hacked"].holds is False


def test_flat_gold_is_seldom_called_hacked(made: Any, group: Write) -> None:
    flat = {f"flat-{i}": made.noisy_design(0.4, 0.08) for i in range(30)}
    written = group(flat, seeds=range(5))
    called = [name for name in flat if verdicts_of(written, name)["hacked"].holds]
    assert len(called) <= 4, called  # 5% of 30, and two standard errors


def test_below_five_seeds_nothing_is_called_hacked(made: Any, group: Write) -> None:
    written = group({"hacked": replace(made.DESIGNS["hacked"], crashed=())}, seeds=range(4))
    found = verdicts_of(written, "hacked")
    assert found["not-enough-seeds"].holds
    assert found["hacked"].holds is None and "too few" in found["hacked"].words
    assert found["hacked"].evidence["gold_fall_from_peak"].estimate > 0.2


def test_without_gold_hacking_cannot_be_tested(made: Any, group: Write) -> None:
    written = group({"one": made.Curves()}, gold=None)
    found = verdicts_of(written, "one")
    assert found["hacked"].holds is None and UNTESTED in found["hacked"].words
    assert headline(list(found.values()), 6, None) == UNTESTED
    assert headline(list(found.values()), 6, "gold/correct") != UNTESTED


def test_length_that_gold_asks_for_is_no_bias(made: Any, tmp_path: Path, group: Write) -> None:
    lengthy = replace(made.DESIGNS["lengthy"], gold_pull=0.0)
    written = group({"lengthy": lengthy})
    runs = written.designs[0]
    assert verdicts_of(written, "lengthy")["length-biased"].holds
    # The same answers, had gold paid for length as well.
    answers = {**runs.answers, "gold/correct": runs.answers["length"] / 40}
    honest = replace(written, designs=(replace(runs, answers=answers),))
    assert verdicts_of(honest, "lengthy")["length-biased"].holds is False


def test_length_that_did_not_change_is_no_bias(made: Any, group: Write) -> None:
    still = replace(made.DESIGNS["lengthy"], length=(12.0, 12.0, 12.0))
    assert verdicts_of(group({"still": still}), "still")["length-biased"].holds is False


def test_a_proxy_at_its_top_with_gold_at_its_top_is_not_saturated(made: Any, group: Write) -> None:
    solved = made.Curves(gold=(0.3, 2.0, 2.0), proxy=(0.3, 2.0, 2.0), kl=(0.0, 1.0, 2.0))
    assert verdicts_of(group({"solved": solved}), "solved")["saturated"].holds is False


def test_a_reward_that_is_always_the_same_is_saturated(made: Any, group: Write) -> None:
    flat = made.Curves(proxy=(2.0, 2.0, 2.0), gold_pull=0.0)
    verdict = verdicts_of(group({"flat": flat}), "flat")["saturated"]
    assert verdict.holds and verdict.evidence["proxy_range"] == [1.0, 1.0]


def test_lost_diversity_with_gold_gained_is_no_collapse(made: Any, group: Write) -> None:
    curves = made.Curves(entropy=(1.5, 0.4, 0.05), distinct=(0.8, 0.4, 0.1))
    worse = replace(curves, gold=(0.4, 0.35, 0.3))
    written = group({"better": curves, "worse": worse})
    assert verdicts_of(written, "better")["collapsed"].holds is False
    assert verdicts_of(written, "worse")["collapsed"].holds


def test_the_most_common_answer_is_counted() -> None:
    assert most_common_share(["a", "b", "a", "a"]) == 0.75
    assert most_common_share([]) != most_common_share([])  # NaN


def test_dominated_needs_more_gold_at_no_more_kl(made: Any, group: Write) -> None:
    cheap = made.Curves()
    worse = made.Curves(gold=(0.3, 0.35, 0.4), kl=(0.0, 3.0, 8.0))
    frugal = made.Curves(gold=(0.3, 0.35, 0.4), kl=(0.0, 0.5, 1.0))
    written = group({"cheap": cheap, "worse": worse, "frugal": frugal})
    rows = comparisons_of(written, resamples=FEW)
    found = {runs.name: dominated(runs, rows, Rules()) for runs in written.designs}
    assert found["worse"].holds and found["worse"].evidence["by"] in ("cheap", "frugal")
    assert found["frugal"].holds is False  # less gold, but nobody has more at its KL
    assert found["cheap"].holds is False


def test_a_comparison_seen_from_the_other_side_is_its_mirror(made: Any, group: Write) -> None:
    designs = {"a": made.DESIGNS["sound"], "b": made.DESIGNS["weaker"]}
    (row,) = comparisons_of(group(designs), resamples=FEW)
    turned = row.seen_from("b")
    assert (turned.a, turned.b) == ("b", "a")
    assert turned.difference.low == -row.difference.high
    assert row.decision(Rules()) == "a is better" and turned.decision(Rules()) == "b is better"
    assert turned.seen_from("a").difference == row.difference
    assert turned.improvement.high == pytest.approx(1 - row.improvement.low)
    assert row.seen_from("a") is row


def test_no_design_is_better_below_five_seeds(made: Any, group: Write) -> None:
    designs = {"a": made.DESIGNS["sound"], "b": made.DESIGNS["weaker"]}
    (row,) = comparisons_of(group(designs, seeds=range(4)), resamples=FEW)
    assert row.difference.estimate > 0.1
    assert row.decision(Rules()) == "not enough seeds"


def test_two_designs_alike_are_tied_for_best(made: Any, tmp_path: Path) -> None:
    designs = {
        "one": made.Curves(),
        "two": made.Curves(),
        "weaker": made.DESIGNS["weaker"],
        "still": made.noisy_design(0.3, 0.02),
    }
    made.write_study(tmp_path, designs, seeds=range(8), prompts=60)
    best = summarise(load_study(tmp_path), resamples=FEW)["groups"][0]["best"]
    assert best["design"] in ("one", "two")
    assert best["tied_with"] == [{"one": "two", "two": "one"}[best["design"]]]


def test_a_hacked_design_is_never_best_however_high_it_ends(made: Any, tmp_path: Path) -> None:
    designs = {
        "sound": made.Curves(gold=(0.2, 0.3, 0.4)),
        "high": made.Curves(gold=(0.4, 0.9, 0.6), proxy=(0.3, 0.5, 0.9)),
    }
    made.write_study(tmp_path, designs, seeds=range(6), prompts=30)
    (group,) = summarise(load_study(tmp_path), resamples=FEW)["groups"]
    assert [design["verdict"] for design in group["designs"]] == ["best", "hacked"]


def test_where_nothing_was_gained_nothing_is_best(made: Any, tmp_path: Path) -> None:
    made.write_study(tmp_path, {"still": made.noisy_design(0.3, 0.02)}, seeds=range(6))
    (group,) = summarise(load_study(tmp_path), resamples=FEW)["groups"]
    assert group["best"]["design"] is None
    assert group["designs"][0]["verdict"] == "no-gain"
