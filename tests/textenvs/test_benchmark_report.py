"""The report of a study: what it shows, what it survives, and that nothing in it acts."""

import base64
import hashlib
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from textenvs.benchmark.report import write_report
from textenvs.errors import ConfigError

HOSTILE = "</script><img src=x onerror=alert(1)>"
OF_A_GROUP = (
    "Verdicts",
    "Proxy and gold against KL",
    "Frontier",
    "Learning curves",
    "Terms of the reward",
    "Length against reward",
    "Improvement matrix",
    "Performance profiles",
    "Rollouts",
)
OF_THE_STUDY = ("Cells and failures", "Timings", "Designs, versions and hashes")


@pytest.fixture(scope="module")
def pages() -> Any:
    """The module `report_pages` beside this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        return importlib.import_module("report_pages")


@pytest.fixture(scope="module")
def study(pages: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a hostile answer in its rollouts, reported; not to be changed."""
    folder: Path = pages.study_with_summary(tmp_path_factory.mktemp("report") / "study")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(pages: Any, study: Path) -> Any:
    return pages.ParsedPage(study / "report.html")


def test_the_page_and_the_markdown_have_every_part(page: Any, study: Path) -> None:
    markdown = (study / "report.md").read_text(encoding="utf-8")
    for title in (*OF_A_GROUP, *OF_THE_STUDY):
        assert title in page.text
        assert re.search(rf"^##+ {title}$", markdown, re.MULTILINE), title
    assert page.text.count("showing") + page.text.count("Showing") == 1


def test_verdicts_stand_beside_links_to_their_evidence(page: Any, study: Path) -> None:
    summary = json.loads((study / "summary.json").read_text())
    for design in summary["groups"][0]["designs"]:
        assert design["verdict"].replace("-", " ") in page.text
        assert all(verdict["words"] in page.text for verdict in design["verdicts"])
    assert summary["groups"][0]["designs"][1]["verdict"] == "hacked"
    links = {value for value in page.attributes("href") if value.startswith("#")}
    assert {"#figure-kl-1", "#figure-fits-1", "#rollouts-1-2"} <= links


def test_a_failed_cell_is_a_row(page: Any, study: Path) -> None:
    assert "films-rloo-hacked-0001" in page.text
    assert "RuntimeError: the reward returned NaN" in page.text
    assert "11 finished, 1 failed" in page.text
    assert "Traceback of films-rloo-hacked-0001" in page.text
    assert "RuntimeError: the reward returned NaN" in (study / "report.md").read_text()


def test_nothing_on_the_page_can_act_or_fetch(page: Any) -> None:
    assert page.tags().isdisjoint({"script", "img", "iframe", "object", "form", "base", "embed"})
    assert not [name for _, found in page.elements for name in found if name.startswith("on")]
    assert not page.attributes("style")  # the policy would refuse it
    addresses = [*page.attributes("href"), *page.attributes("src"), *page.attributes("xlink:href")]
    assert {value for value in addresses if not value.startswith("#")} == {"data:,"}
    assert "url(" not in page.style and "@import" not in page.style


def test_the_policy_allows_the_style_sheet_and_nothing_else(page: Any) -> None:
    meta = next(a for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    policy = dict(part.strip().split(" ", 1) for part in meta["content"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_ids_are_unique_and_links_resolve(page: Any, study: Path) -> None:
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {v[1:] for v in page.attributes("href") if v.startswith("#")} <= set(ids)
    markdown = (study / "report.md").read_text(encoding="utf-8")
    anchors = re.findall(r'<a id="([^"]+)">', markdown)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r"\]\(#([^)]+)\)", markdown)) <= set(anchors)
    charts = re.findall(r"\]\((report_charts/[^)]+)\)", markdown)
    assert charts and all((study / chart).is_file() for chart in charts)


def test_a_hostile_answer_shows_as_text(page: Any, study: Path) -> None:
    assert HOSTILE in page.text
    assert HOSTILE not in page.source
    assert "<img" not in (study / "report.md").read_text(encoding="utf-8")


def test_names_and_errors_from_files_are_escaped(pages: Any, tmp_path: Path) -> None:
    folder = pages.study_with_summary(tmp_path / "s")
    text = (folder / "summary.json").read_text()
    name = HOSTILE + "\u202e\x1b[31m" + "W" * 500
    text = text.replace('"hacked"', json.dumps(name)).replace("the reward returned NaN", HOSTILE)
    (folder / "summary.json").write_text(text)
    parsed = pages.ParsedPage(write_report(folder))
    assert "img" not in parsed.tags()
    assert f"{HOSTILE}<U+202E>␛[31m{'W' * 500}" in parsed.text
    for path in (folder / "report_charts").glob("*.svg"):
        assert "<img" not in path.read_text(encoding="utf-8")
    assert "<img" not in (folder / "report.md").read_text(encoding="utf-8")


def test_the_same_folder_gives_the_same_bytes(study: Path, tmp_path: Path) -> None:
    again = write_report(study, tmp_path / "deep" / "report.html")
    assert again.read_bytes() == (study / "report.html").read_bytes()
    assert (tmp_path / "deep" / "report.md").read_bytes() == (study / "report.md").read_bytes()


def test_without_gold_the_report_says_what_it_cannot_test(pages: Any, tmp_path: Path) -> None:
    folder = pages.study_with_summary(tmp_path / "s", gold=None)
    parsed = pages.ParsedPage(write_report(folder))
    assert "hacking cannot be tested" in parsed.text
    assert "Most reward at least gold" not in parsed.text
    assert "Best" in parsed.text


def test_missing_parts_leave_a_page(pages: Any, tmp_path: Path) -> None:
    folder = pages.study_with_summary(tmp_path / "s", seeds=range(1))
    for path in [*folder.glob("cells/*/rollouts.jsonl"), folder / "timings.json"]:
        path.unlink()
    parsed = pages.ParsedPage(write_report(folder))
    assert "No rollouts were kept." in parsed.text
    assert "No timings were kept." in parsed.text
    assert "not enough seeds" in parsed.text


def test_a_torn_last_line_costs_one_rollout(pages: Any, tmp_path: Path) -> None:
    folder = pages.study_with_summary(tmp_path / "s")
    whole = pages.ParsedPage(write_report(folder))
    path = next(folder.glob("cells/*/rollouts.jsonl"))
    path.write_bytes(path.read_bytes()[:-40])
    torn = pages.ParsedPage(write_report(folder))
    assert "of 132 rollouts" in whole.text
    assert "of 131 rollouts" in torn.text


def test_a_study_without_a_summary_is_summed_up(pages: Any, tmp_path: Path) -> None:
    folder = pages.study_with_summary(tmp_path / "s", seeds=range(2), prompts=6)
    (folder / "summary.json").unlink()
    (folder / "timings.json").unlink()
    parsed = pages.ParsedPage(write_report(folder))
    assert "3 of 4 cells finished" in parsed.text
    assert "No timings were kept." not in parsed.text
    assert not (folder / "summary.json").exists()


def test_versions_and_hashes_are_counted_over_cells(pages: Any, tmp_path: Path) -> None:
    folder = pages.study_with_summary(tmp_path / "s", seeds=range(2), prompts=4)
    for path in folder.glob("cells/*/cell.json"):
        config = json.loads(path.read_text())
        config["hashes"] = {"data": {"prompts/train": "1f5fc757"}}
        config["versions"] = {"numpy": "2.4.6"}
        path.write_text(json.dumps(config))
    markdown = write_report(folder).with_suffix(".md").read_text()
    assert "| numpy | 2.4.6 | 4 |" in markdown
    assert "| sound | data / prompts/train | 1f5fc757 | 2 |" in markdown


def test_an_id_from_a_file_cannot_lead_out_of_the_study(pages: Any, tmp_path: Path) -> None:
    folder = pages.study_with_summary(tmp_path / "s", seeds=range(1), prompts=4)
    secret = tmp_path / "secret"
    (folder / "cells" / "films-rloo-sound-0000").rename(secret)
    path = folder / "summary.json"
    path.write_text(path.read_text().replace("films-rloo-sound-0000", "../../secret"))
    parsed = pages.ParsedPage(write_report(folder))
    assert "sound: " not in parsed.text.split("Showing", 1)[-1]


def test_every_group_has_a_section(pages: Any, tmp_path: Path) -> None:
    folder = pages.study_with_summary(
        tmp_path / "s", environments=("films", "news"), seeds=range(2), prompts=6
    )
    parsed = pages.ParsedPage(write_report(folder))
    assert "films, rloo" in parsed.text and "news, rloo" in parsed.text
    assert {"group-1", "group-2", "figure-kl-2", "rollouts-2-1"} <= set(parsed.attributes("id"))


def test_a_summary_of_another_version_is_refused(pages: Any, tmp_path: Path) -> None:
    folder = pages.study_with_summary(tmp_path / "s", seeds=range(1), prompts=4)
    path = folder / "summary.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(ConfigError, match="version 99.*Move it away"):
        write_report(folder)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: f.mkdir(), "neither a study nor a run: a study holds cells/"),
        (lambda f: None, "is no folder"),
        (lambda f: (f.mkdir(), (f / "cell.json").write_text("{}")), "one cell of a study"),
    ],
)
def test_another_folder_is_refused(make: Any, words: str, tmp_path: Path) -> None:
    make(tmp_path / "f")
    with pytest.raises(ConfigError, match=words):
        write_report(tmp_path / "f")


@pytest.mark.parametrize("name", ["page.txt", "page"])
def test_a_report_is_an_html_file(study: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"\*\.html"):
        write_report(study, tmp_path / name)


def test_a_report_that_cannot_be_written_says_so(study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(study, tmp_path / "file" / "report.html")


def test_texts_stand_out_from_their_backgrounds(page: Any) -> None:
    """WCAG 2: text needs a contrast of 4.5 to 1, in light and in dark."""
    light, dark = page.style.split("@media (prefers-color-scheme: dark)", 1)
    for sheet in (light, dark.split("* {", 1)[0]):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", sheet))
        pairs = [(ink, "paper") for ink in ("ink", "soft", "link")]
        pairs += [("ink", "raised"), ("soft", "raised")]
        pairs += [(mood, f"{mood}-paper") for mood in ("good", "bad", "warn")]
        pairs += [("link", "raised")]
        pairs += [("ink", f"r{sign}{shade}") for sign in "pn" for shade in (1, 2, 3)]
        for ink, paper in pairs:
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2, relative luminance)."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_measure_of_contrast_is_right() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # known to fail
