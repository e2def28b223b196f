"""The grid: what a cell's id depends on, and that every cell is run once."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from textenvs.benchmark.cell import Cell
from textenvs.benchmark.durations import estimate
from textenvs.benchmark.grid import owed
from textenvs.benchmark.leases import Lease, holder
from textenvs.benchmark.plan import chosen
from textenvs.benchmark.probing import probe_cells
from textenvs.benchmark.reward_spec import make_reward
from textenvs.benchmark.store import CellStore
from textenvs.benchmark.study import Study, parse_seeds
from textenvs.benchmark.verification import first_difference, verify_cell
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.rewards import Staged


@pytest.fixture
def grids(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `benchmark_grids` beside this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("benchmark_grids")


@pytest.fixture
def file(grids: Any, tmp_path: Path) -> Path:
    """A study of two designs and two seeds with a start model each."""
    path: Path = grids.write_study(tmp_path / "study.toml")
    return path


def ids(cells: list[Cell]) -> set[str]:
    return {cell.id for cell in cells}


def test_a_grid_has_a_cell_for_each_combination_after_its_preparation(
    grids: Any, file: Path
) -> None:
    cells = grids.cells_of(file)
    assert [(cell.kind, cell.seed, cell.names[1:]) for cell in cells] == [
        ("preparation", 0, ()),
        ("cell", 0, ("f1", "rloo")),
        ("cell", 0, ("other", "rloo")),
        ("preparation", 1, ()),
        ("cell", 1, ("f1", "rloo")),
        ("cell", 1, ("other", "rloo")),
    ]
    assert [cell.needs for cell in cells[1:3]] == [(cells[0].id,)] * 2
    assert len(ids(cells)) == 6
    assert ids(grids.cells_of(file)) == ids(cells)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("context-match-f1", "context-match", {"f1"}),
        ("threshold = 80", "threshold = 81", {"other"}),
        ("weight = 0.3", "weight = 0.2", {"other"}),
        ("n_items = 3", "n_items = 4", {"f1", "other"}),
        ("steps = 2", "steps = 3", {"f1", "other"}),  # through the preparation
        ("-v0", "-v0", set()),
    ],
)
def test_an_id_changes_with_what_the_cell_depends_on(
    grids: Any, file: Path, old: str, new: str, changed: set[str]
) -> None:
    before = grids.cells_of(file)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    after = grids.cells_of(file)
    found = {b.names[1] for b, a in zip(before, after, strict=True) if a.id != b.id and a.needs}
    assert found == changed


def test_a_changed_default_changes_the_id(
    grids: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = grids.cells_of(file)
    runner = importlib.import_module("grid_runner")
    monkeypatch.setitem(runner.OPTIONS, "fate", "another")
    after = grids.cells_of(file)
    assert not {c.id for c in after if c.kind == "cell"} & ids(before)


def test_a_changed_reward_source_changes_the_id(
    grids: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source = tmp_path / "own_reward_of_a_grid.py"
    helper = tmp_path / "helper_of_own_reward.py"
    source.write_text(
        "import numpy\nimport helper_of_own_reward\n\n\ndef score(prompt, completion):\n"
        "    return helper_of_own_reward.ONE\n"
    )
    helper.write_text("ONE = 1.0\n")
    design = 'reward = "own_reward_of_a_grid:score"'
    file = grids.write_study(tmp_path / "study.toml", design=design)
    first = grids.cells_of(file)
    assert ids(grids.cells_of(file)) == ids(first)
    source.write_text(source.read_text() + "# changed\n")
    second = grids.cells_of(file)
    assert {c.names[1] for c in first if c.needs and c.id not in ids(second)} == {"other"}
    helper.write_text("ONE = 1.5\n")  # what it imports is a part of it
    third = grids.cells_of(file)
    assert {c.names[1] for c in second if c.needs and c.id not in ids(third)} == {"other"}


def test_changed_data_change_the_id(grids: Any, file: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "titles.tsv"
    rows = [f"Title {i}\t{'war' if i % 2 else 'love'}" for i in range(120)]
    corpus.write_text("title\tcategory\n" + "\n".join(rows) + "\n")
    text = file.read_text().replace("n_items = 3", f'n_items = 3, corpus = "{corpus}"')
    file.write_text(text)
    before = grids.cells_of(file)
    importlib.import_module("textenvs.benchmark.fingerprints").path_hash.cache_clear()
    corpus.write_text(corpus.read_text().replace("Title 7\t", "Another 7\t"))
    after = grids.cells_of(file)
    assert not ids(before) & ids(after)


def test_finished_cells_are_not_run_again_and_a_seed_adds_only_its_own(
    grids: Any, tmp_path: Path
) -> None:
    ran = tmp_path / "ran.txt"
    options = f'ran = "{ran}"'
    file = grids.write_study(tmp_path / "study.toml", seeds=[0, 1], options=options)
    assert len(grids.run_grid(file, tmp_path / "out")) == 6
    before = grids.contents(tmp_path / "out")
    assert grids.run_grid(file, tmp_path / "out") == []
    grids.write_study(file, seeds=[0, 1, 2], options=options)
    events = grids.run_grid(file, tmp_path / "out")
    assert [event.cell.seed for event in events] == [2, 2, 2]
    lines = ran.read_text().split()
    assert len(lines) == len(set(lines)) == 6
    after = grids.contents(tmp_path / "out")
    assert {name: after[name] for name in before} == before


def test_cells_of_an_earlier_form_are_put_aside_and_come_back(grids: Any, file: Path) -> None:
    folder = file.parent / "out"
    grids.run_grid(file, folder)
    before, text = grids.contents(folder), file.read_text()
    file.write_text(text.replace("threshold = 80", "threshold = 70"))
    assert len(grids.run_grid(file, folder)) == 2
    assert sorted(CellStore(folder).ids()) == sorted(ids(grids.cells_of(file)))
    file.write_text(text)
    assert grids.run_grid(file, folder) == []
    assert grids.contents(folder) == before


def test_a_failure_is_a_row_and_is_tried_again_only_when_asked(grids: Any, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    fate = f'agent_options = {{ fate = "once", flag = "{flag}" }}'
    file = grids.write_study(
        tmp_path / "study.toml", seeds=[0], design=f'reward = "rouge-l"\n{fate}'
    )
    store = CellStore(tmp_path / "out")
    events = grids.run_grid(file, store.path)
    failed = [event for event in events if event.error]
    assert [event.cell.names[1] for event in failed] == ["other"]
    cell_id = failed[0].cell.id
    assert store.state(cell_id) == "failed"
    failure = store.failure(cell_id)
    assert failure["error"] == "RuntimeError: the first time"
    assert "grid_runner.py" in failure["traceback"] and failure["attempts"] == 1
    assert sorted(p.name for p in store.folder(cell_id).iterdir()) == ["FAILED.json", "cell.json"]
    assert grids.run_grid(file, store.path) == []
    again = grids.run_grid(file, store.path, retry_failed=True)
    assert [(event.cell.id, event.error) for event in again] == [(cell_id, "")]
    assert store.state(cell_id) == "done"
    assert json.loads((store.folder(cell_id) / "DONE.json").read_text())["attempts"] == 2
    assert not list(store.path.glob("partial/*"))


def test_cells_whose_preparation_fails_are_rows_too(
    grids: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = importlib.import_module("grid_runner")

    def fail(cell: Any, folder: Path, study: Path) -> None:
        raise ValueError("no start model")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "run_cell", fail)
        events = grids.run_grid(file, file.parent / "out")
    errors = [event.error for event in events]
    assert len(errors) == 6 and errors.count("ValueError: no start model") == 2
    assert sum("its preparation" in error for error in errors) == 4
    assert all(not e.error for e in grids.run_grid(file, file.parent / "out", retry_failed=True))


def test_one_lease_at_a_time_and_a_stale_file_is_no_lease(tmp_path: Path) -> None:
    path = tmp_path / "leases" / "a.json"
    lease = Lease.take(path)
    assert lease is not None
    assert Lease.take(path) is None
    assert "process" in str(holder(path))
    lease.release()
    assert holder(path) is None
    path.write_text('{"host": "here", "pid": 1, "taken": 0}')  # of a process that was killed
    assert holder(path) is None
    with Lease.take(path) as lease:  # type: ignore[union-attr]
        assert Lease.take(path) is None
    assert not path.exists()


def test_a_cell_that_another_process_runs_is_waited_for_and_not_run(grids: Any, file: Path) -> None:
    store = CellStore(file.parent / "out")
    done = grids.run_grid(file, file.parent / "done")
    cell = grids.cells_of(file)[1]
    store.write_study(Study.from_toml(file))
    lease = store.take(cell.id)
    assert lease is not None and store.state(cell.id) == "running"

    def finish_elsewhere() -> None:
        if len(store.ids()) == 5:  # once everything else has ended
            folder = store.begin(cell)
            for path in CellStore(file.parent / "done").folder(cell.id).glob("*.jsonl"):
                (folder / path.name).write_bytes(path.read_bytes())
            store.finish(cell.id, folder, 1.0)
            lease.release()

    events = grids.run_grid(file, store.path, grids.InlineEngine(finish_elsewhere))
    assert len(events) == len(done) == 6
    assert [event.cell.id for event in events if event.elsewhere] == [cell.id]
    assert grids.contents(store.path) == grids.contents(file.parent / "done")


def test_verify_tells_a_repeatable_cell_from_another(grids: Any, tmp_path: Path) -> None:
    noisy = 'reward = "rouge-l"\nagent_options = { noise = true }'
    file = grids.write_study(tmp_path / "study.toml", seeds=[0], design=noisy)
    store = CellStore(tmp_path / "out")
    grids.run_grid(file, store.path)
    preparation, good, bad = grids.cells_of(file)
    before = grids.contents(store.path)
    assert verify_cell(store, preparation.id, grids.InlineEngine()).ok
    found = verify_cell(store, good.id, grids.InlineEngine())
    assert found.ok and not found.notes
    assert found.compared == ("answers.jsonl", "checkpoints.jsonl", "rollouts.jsonl")
    found = verify_cell(store, bad.id, grids.InlineEngine())
    assert found.difference.startswith("answers.jsonl: line 1, proxy: 0.")
    assert grids.contents(store.path) == before and not list(store.path.glob("partial/*"))
    with pytest.raises(ConfigError, match="is missing"):
        verify_cell(store, "0" * 16, grids.InlineEngine())


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ('{"a": 1, "seconds": 1}', '{"a": 1, "seconds": 2}', ""),
        ('{"a": [1, 2]}', '{"a": [1, 3]}', "x.jsonl: line 1, a[1]: 2 and 3"),
        ('{"a": 1}', '{"a": 1}\n{"a": 2}', "x.jsonl: line 2: only the second run wrote it"),
        ('{"a": NaN}', '{"a":NaN}', ""),
        ('{"a": 0.0}', '{"a": -0.0}', "x.jsonl: line 1, a: 0.0 and -0.0"),
        ('{"m": {"seconds": 1}}', '{"m": {"seconds": 2}}', "x.jsonl: line 1, m.seconds: 1 and 2"),
    ],
)
def test_the_first_difference_is_named(
    tmp_path: Path, first: str, second: str, expected: str
) -> None:
    for name, text in (("one", first), ("two", second)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text(text)
    assert first_difference(tmp_path / "one", tmp_path / "two") == expected


def test_only_and_seeds(grids: Any, file: Path) -> None:
    cells = grids.cells_of(file)
    assert {c.names[1:2] for c in chosen(cells, ["f1"])} == {(), ("f1",)}
    assert len(chosen(cells, ["films/o*/rloo"])) == 4
    assert chosen(cells, []) == cells
    with pytest.raises(UnknownNameError, match="Did you mean 'other'"):
        chosen(cells, ["othr"])
    assert parse_seeds("0..2, 7") == (0, 1, 2, 7)
    for wrong in ("0-3", "", "a", "3..1"):
        with pytest.raises(ConfigError, match="seeds"):
            Study.from_toml(file).with_seeds(parse_seeds(wrong))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('reward = "context-match-f1"', 'reward = "context-match-f2"', "Did you mean"),
        ("threshold = 80", "treshold = 80", "Did you mean 'threshold'"),
        ("weight = 0.7", 'weight = "much"', "weight must be float"),
        ("[designs.f1]", "[designs.f1]\nkl_coeff = 1", "Did you mean 'kl_coef'"),
        ("[designs.f1]", "[designs.f1]\nkl_coef = -1.0", "at least 0"),
        ("[designs.f1]", "[designs.f1]\nstages = [{ reward = 'length' }]", "reward and stages"),
        ("n_items = 3", "n_itms = 3", "Did you mean 'n_items'"),
        ("n_items = 3", "reward = 'length'", "in a design"),
        ('id = "textenvs/ContextSelect-v0"', "", "must say id"),
        ("sft = { steps = 2 }", "sft = 2", "sft must be a table or none"),
        ("options = {  }", "options = { nose = true }", "Did you mean 'noise'"),
        ("[0, 1]", "[0, 0]", "different integers"),
        ("grid_runner:run_cell", "grid_runner:run_cel", "cannot be imported"),
        ('name = "dummy"', "name = dummy", "no TOML"),
    ],
)
def test_a_wrong_study_file_is_refused_with_a_remedy(
    grids: Any, file: Path, old: str, new: str, expected: str
) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises((ConfigError, UnknownNameError), match=expected):
        grids.cells_of(file)


def test_rewards_are_made_of_names_sums_stages_and_functions() -> None:
    stages = [
        {"reward": "json", "threshold": 1.0, "weight": 0.25},
        {"reward": "context-match-f1", "weight": 0.75},
    ]
    assert isinstance(make_reward({"stages": stages}), Staged)
    one = {"reward": "distinct-1"}
    total = make_reward({"terms": [{**one, "weight": 2.0}, {"reward": "length", "weight": -0.5}]})
    assert [weight for _, weight in total.parts] == [2.0, -0.5]  # type: ignore[attr-defined]
    own = make_reward({"reward": "textenvs.audit.naive:partial_ratio"})
    assert own.name == "partial_ratio"
    with pytest.raises(UnknownNameError, match="option of the reward"):
        make_reward({"reward": "repetition-penalty", "options": {"n": 2}})
    with pytest.raises(ConfigError, match="one of reward"):
        make_reward({})


def test_the_written_study_reads_back_as_the_same_cells(grids: Any, file: Path) -> None:
    store = CellStore(file.parent / "out")
    store.write_study(Study.from_toml(file))
    assert grids.cells_of(store.path / "study.toml") == grids.cells_of(file)


def test_the_time_is_estimated_from_finished_cells(grids: Any, file: Path) -> None:
    store, cells = CellStore(file.parent / "out"), grids.cells_of(file)
    store.write_study(Study.from_toml(file))
    assert estimate(store, owed(store, cells, retry_failed=False), cells).words(2) == (
        "unknown until a first cell is finished"
    )
    store.finish(cells[1].id, store.begin(cells[1]), 50.0)
    left = owed(store, cells, retry_failed=False)
    found = estimate(store, left, cells)
    assert (found.seconds, found.told, found.untold) == (150.0, 3, 2)
    assert found.words(3).startswith("about 50 s with 3 side by side")
    assert found.words(3).endswith("2 more of a kind none of which is finished")


def test_short_runs_tell_the_time_of_a_whole_one(grids: Any, file: Path) -> None:
    preparation, cell = grids.cells_of(file)[:2]
    assert cell.config["agent"]["updates"] == 40 and cell.config["evaluation"]["every"] == 10
    assert preparation.config["agent"]["sft"] == {"steps": 2}
    # 1 s to begin, 2 s an update, 0.5 s an evaluation; a step of fine-tuning takes 3 s.
    engine = grids.TimedEngine(lambda u, e: 1.0 + 2.0 * u + 0.5 * e, lambda steps: 3.0 * steps)
    assert probe_cells([preparation, cell], engine) == [6.0, 1.0 + 2.0 * 40 + 0.5 * 5]
    with pytest.raises(ConfigError, match="a short run of films / f1 / rloo, seed 0 failed"):
        probe_cells([cell], grids.TimedEngine(lambda u, e: 1 / 0, float))
