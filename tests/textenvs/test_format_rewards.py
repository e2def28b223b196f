"""`RegexFormat` and `JsonFormat`: what matches, what is refused, and what cannot hang."""

import json
import math

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenvs.errors import ConfigError
from textenvs.rewards import BaseReward, JsonFormat, RegexFormat
from textenvs.types import Episode, Prompt

PROMPT = Prompt("p", "p")
json_documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=6,
)
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"$ref": "#/$defs/list"}},
    "required": ["a"],
    "additionalProperties": False,
    "$defs": {"list": {"type": "array", "items": {"type": ["string", "null"]}}},
}


def scores(reward: BaseReward, *answers: str) -> list[float]:
    return reward([Episode(PROMPT, text) for text in answers]).scores.tolist()


def test_the_whole_answer_must_match() -> None:
    year = RegexFormat(r"\d{4}")
    assert scores(year, "1984", "in 1984", "1984\n", "19845", "") == [1, 0, 0, 0, 0]
    anywhere = RegexFormat(r"\d{4}", search=True)
    assert scores(anywhere, "1984", "in 1984", "198") == [1, 1, 0]
    assert scores(RegexFormat("(?i)yes.*"), "YES\nindeed", "no") == [1, 0]


def test_an_empty_answer_never_has_the_form() -> None:
    assert scores(RegexFormat(".*"), "", " ", "a") == [0, 0, 1]
    assert scores(RegexFormat("", search=True), "", "a") == [0, 1]


def test_think_format() -> None:
    right = "<think>6 times 7\nis 42</think>\n<answer>42</answer>"
    wrong = [
        "<think></think><answer>42</answer>",
        "<think>a</think>",
        right + " indeed",
        right + right,
        "<answer>42</answer><think>a</think>",
        "<think>a<think>b</think><answer>42</answer>",
        "42",
    ]
    assert scores(RegexFormat(), right, *wrong) == [1.0] + [0.0] * len(wrong)


def test_catastrophic_backtracking_is_stopped_and_not_scored() -> None:
    evil = RegexFormat(r"(a|aa)+b", timeout_s=0.05)
    answers = ["aab", "a" * 5_000 + "c"]
    one, other = scores(evil, *answers)
    assert one == 1.0 and math.isnan(other)
    short = RegexFormat(r"(a|aa)+b", timeout_s=0.05, max_characters=100)
    assert scores(short, *answers) == [1.0, 0.0]


def test_bad_patterns() -> None:
    with pytest.raises(ConfigError, match=r"'\(' is no regular expression"):
        RegexFormat("(")
    for seconds in (0, -1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="timeout_s must be above 0 and finite"):
            RegexFormat("a", timeout_s=seconds)
    with pytest.raises(ConfigError, match="max_characters must be at least 1"):
        RegexFormat("a", max_characters=0)


def test_json_without_a_schema() -> None:
    right = ['{"a": [1, 2.5e3, null]}', " [] ", '"a"', "null", '"\\ud800"']
    wrong = ["", "{", "{a: 1}", "{'a': 1}", "[NaN]", "-Infinity", "{} {}", "```json\n{}\n```"]
    assert scores(JsonFormat(), *right) == [1.0] * len(right)
    assert scores(JsonFormat(), *wrong) == [0.0] * len(wrong)
    assert scores(JsonFormat(), '{"a": 1, "a": 2}', '{"a": {"b": 1}, "b": 2}') == [0.0, 1.0]


def test_deep_and_long_documents_are_refused() -> None:
    def nested(depth: int) -> str:
        return "[" * depth + "]" * depth

    assert scores(JsonFormat(), nested(64), nested(65), nested(9_000)) == [1.0, 0.0, 0.0]
    assert scores(JsonFormat(max_characters=4), "1234", "12345") == [1.0, 0.0]
    assert scores(JsonFormat(), "1" * 5_000) == [0.0]  # more digits than Python reads


@given(json_documents)
def test_agrees_with_the_validator(document: object) -> None:
    expected = jsonschema.Draft202012Validator(SCHEMA).is_valid(document)
    assert scores(JsonFormat(SCHEMA), json.dumps(document)) == [float(expected)]


def test_schema_by_hand() -> None:
    answers = ['{"a": 1}', '{"a": -1}', "{}", '{"a": 1, "c": 2}', '{"a": 1, "b": ["x", null]}', "1"]
    assert scores(JsonFormat(SCHEMA), *answers) == [1, 0, 0, 0, 1, 0]
    older = {"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": True}
    assert scores(JsonFormat({**older, "minimum": 1}), "1", "2") == [0.0, 1.0]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "this is no JSON schema"),
        ({"const": {1, 2}}, "made of JSON alone"),
        ({"$ref": "#/$defs/absent"}, "refers to '/\\$defs/absent', which is not in it"),
        ({"$ref": "https://example.com/schema.json"}, "nothing is fetched"),
        ({"$ref": "#"}, "refers to itself for ever"),
    ],
)
def test_bad_schemas(schema: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        JsonFormat(schema)
