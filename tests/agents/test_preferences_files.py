"""Files of rankings: there and back, columns, and everything that can be wrong in a row."""

import json
from pathlib import Path
from typing import Any

import pytest

from agents.preferences import Ranking, RankingSet, read_rankings, write_rankings
from textenvs.errors import ConfigError, UnknownNameError

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.jsonl"


def test_there_and_back(tmp_path: Path) -> None:
    rankings = [
        Ranking("p\u2028q", ("a\nb", 'b,\t"c"'), (1, 0), "g", "id-1"),
        Ranking("愿", ("好", "坏", "x"), (0, 1, 1), "h"),
        Ranking("third", ("a", "b", "c"), (2, 0, 1), "g"),
    ]
    path = tmp_path / "deep" / "rankings.jsonl"
    write_rankings(path, rankings)
    found = read_rankings(path)
    assert list(found) == rankings and found.counts == {} and found.notes == ()
    assert [p.name for p in path.parent.iterdir()] == ["rankings.jsonl"], "no partial file is left"
    assert (
        isinstance(found, RankingSet)
        and found[0] == rankings[0]
        and found[1:]
        == (
            rankings[1],
            rankings[2],
        )
    )


def test_half_a_surrogate_pair_and_a_folder_that_is_a_file(file: Path) -> None:
    odd = Ranking("p", ("\ud83d", "愿"), (0, 1), "g")
    write_rankings(file, [odd])
    assert list(read_rankings(file)) == [odd]
    with pytest.raises(ConfigError, match="cannot be written: .*; choose another file"):
        write_rankings(file / "below.jsonl", [odd])


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_pairs_in_columns(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"pairs.{kind}"
    rows = [PAIR, {**PAIR, "prompt": "q"}]
    if kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        table = [list(PAIR), *(list(row.values()) for row in rows)]
        path.write_text("".join(mark.join(row) + "\n" for row in table))
    elif kind == "parquet":
        import datasets

        datasets.Dataset.from_list(rows).to_parquet(str(path))
    else:
        path.write_text(
            json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)) + "\n"
        )
    found = read_rankings(path)
    assert list(found) == [
        Ranking(prompt, ("good", "bad"), (0, 1), prompt) for prompt in ("p", "q")
    ]


def test_columns_by_other_names(file: Path) -> None:
    lines(file, {"question": "p", "win": "a", "lose": "b", "user": "u"})
    found = read_rankings(
        file,
        prompt_column="question",
        chosen_column="win",
        rejected_column="lose",
        group_column="user",
    )
    assert list(found) == [Ranking("p", ("a", "b"), (0, 1), "u")]


def test_ranks_from_one_lose_their_offset(file: Path) -> None:
    lines(file, {"prompt": "p", "answers": ["a", "b", "c"], "ranks": [3, 1, 5]})
    assert read_rankings(file)[0].ranks == (1, 0, 2)


def test_a_missing_column_gets_a_hint(file: Path) -> None:
    lines(file, {"prompt": "p", "choosen": "a", "rejected": "b"})
    with pytest.raises(UnknownNameError, match="'chosen'. Did you mean 'choosen'") as caught:
        read_rankings(file)
    assert "--chosen-column" in str(caught.value)
    with pytest.raises(UnknownNameError, match="'promt'. Did you mean 'prompt'"):
        read_rankings(file, prompt_column="promt")
    with pytest.raises(ConfigError, match="three columns, got 'prompt', 'chosen' and 'chosen'"):
        read_rankings(file, rejected_column="chosen")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**PAIR, "chosen": 7}, "line 2: 'chosen' must be a text, got 7; correct the row"),
        ({**PAIR, "rejected": None}, "line 2: 'rejected' must be a text, got None"),
        ({**PAIR, "prompt": ["p"]}, r"line 2: 'prompt' must be a text, got \['p'\]"),
        ({**PAIR, "group": 3}, "line 2: 'group' must be a text, got 3"),
        ({"prompt": "p", "chosen": "a"}, "line 2: there is no 'rejected'; fill it in"),
        (["p", "a", "b"], "line 2: a line must be an object, got"),
        ({"prompt": "p", "answers": ["a", "b"], "ranks": [0]}, "line 2: 2 answers have 1 ranks"),
        ({"prompt": "p", "answers": ["a", 1], "ranks": [0, 1]}, "line 2: 'answers' must be a list"),
        ({"prompt": "p", "answers": "ab", "ranks": [0, 1]}, "line 2: 'answers' must be a list"),
        ({"prompt": "p", "answers": ["a", "b"], "ranks": [0, "x"]}, "line 2: 'ranks' must be"),
        ({"prompt": "p", "answers": ["a", "b"], "ranks": None}, "line 2: 'ranks' must be"),
        ({"prompt": "p", "answers": ["a", "b"], "ranks": [0, -1]}, "line 2: 'ranks' must be"),
    ],
)
def test_a_bad_cell_is_refused_with_its_line(row: Any, words: str, file: Path) -> None:
    lines(file, PAIR, row)
    with pytest.raises(ConfigError, match=words) as caught:
        read_rankings(file)
    assert "file.jsonl" in str(caught.value)


def test_a_short_row_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\np,a,b\nq,a\n")
    with pytest.raises(ConfigError, match="row 2: there is no 'rejected'"):
        read_rankings(path)


def test_what_prefers_nothing_is_counted(file: Path) -> None:
    lines(
        file,
        PAIR,
        {**PAIR, "chosen": " "},
        {**PAIR, "chosen": "same", "rejected": "same"},
        {"prompt": "p2", "answers": ["a", "b", ""], "ranks": [0, 1, 2]},
        {"prompt": "p3", "answers": ["a", "b"], "ranks": [1, 1]},
        {"prompt": "p4", "answers": ["a"], "ranks": [0]},
        {"prompt": "p5", "answers": ["a", "b", "a", "b"], "ranks": [0, 1, 0, 0]},
        PAIR,
    )
    found = read_rankings(file)
    assert [r.prompt for r in found] == ["p", "p2"]
    assert found.counts == {
        "empty answers": 2,
        "all ties": 1,
        "rankings of one": 4,
        "repeated answers": 3,
        "contradicting preferences": 1,
        "duplicate rows": 1,
    }


def test_nothing_left_says_why(file: Path) -> None:
    lines(file, {"prompt": "p", "answers": ["a", "b"], "ranks": [2, 2]})
    with pytest.raises(ConfigError, match=r"nothing is left to rank \(all ties: 1\); 'file.jsonl'"):
        read_rankings(file)
    file.write_text("\n\n")
    with pytest.raises(ConfigError, match=r"nothing is left to rank \(no row at all\)"):
        read_rankings(file)


def test_opposite_rows_are_counted_or_kept(file: Path) -> None:
    lines(file, PAIR, {"prompt": "p", "chosen": "bad", "rejected": "good"}, {**PAIR, "prompt": "q"})
    found = read_rankings(file)
    assert [r.prompt for r in found] == ["q"]
    assert found.counts == {"contradicting preferences": 2}
    assert len(read_rankings(file, merge=False)) == 3


def test_a_torn_last_line_is_counted(file: Path) -> None:
    whole = json.dumps(PAIR).encode() + b"\n"
    torn = json.dumps({**PAIR, "prompt": "愿"}, ensure_ascii=False).encode()
    for end in (5, len(torn) - 1, torn.index("愿".encode()) + 1):
        file.write_bytes(whole + torn[:end])
        found = read_rankings(file)
        assert len(found) == 1 and found.counts == {"torn last lines": 1}
    file.write_bytes(whole + torn)
    assert len(read_rankings(file)) == 2, "a last line needs no line feed"
    file.write_bytes(whole + torn[:5] + b"\n" + whole)
    with pytest.raises(ConfigError, match="line 2: this is no JSON"):
        read_rankings(file)
    file.write_bytes(b"\xef\xbb\xbf" + whole)
    assert len(read_rankings(file)) == 1, "a byte-order mark is none of the text"


def test_scores_against_the_columns(file: Path) -> None:
    right = {**PAIR, "chosen_score": 2, "rejected_score": 1}
    wrong = {**PAIR, "prompt": "q", "chosen_score": "0.5", "rejected_score": "0.7"}
    other = {**wrong, "prompt": "r"}
    lines(file, right, wrong, other)
    with pytest.raises(ConfigError, match="2 of 3 pairs have a lower score for 'chosen'") as caught:
        read_rankings(file)
    assert "chosen_column='rejected' and rejected_column='chosen'" in str(caught.value)
    swapped = read_rankings(file, chosen_column="rejected", rejected_column="chosen")
    assert swapped[1].answers == ("bad", "good"), "the remedy is taken as written"
    lines(file, right, {**right, "prompt": "s"}, wrong)
    (note,) = read_rankings(file).notes
    assert note.startswith("1 of 3 pairs are against the scores")
    lines(file, right, {**right, "prompt": "s", "chosen_score": None})
    assert read_rankings(file).notes == ()
    lines(file, {**PAIR, "score_chosen": 1.0, "score_rejected": 3.0})
    with pytest.raises(ConfigError, match="look swapped"):
        read_rankings(file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_rankings(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="there is no file"):
        read_rankings(tmp_path / "none.csv")
    (tmp_path / "file.pickle").write_bytes(b"")
    with pytest.raises(ConfigError, match="the kinds that are read are"):
        read_rankings(tmp_path / "file.pickle")
