"""Stages as folders: which model a name means, and what its card says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml

from agents import CausalLMPolicy
from agents.evaluation import Interval
from agents.publishing import ModelCard, finish_stage, folder_kind, publish, stage_model
from agents.runs import RunFolder
from textenvs.errors import CheckpointError, ConfigError, ModelError, UnknownNameError

Folder = Callable[..., Path]
CARD = ModelCard(
    stage="sft",
    base_model="me/base",
    data="right answers of textenvs/ContextSelect-v0",
    command="textenvs sft --model me/base",
    settings={"seed": 0, "sft": {"steps": 3}, "out": None},
    metrics={"correct": Interval(0.5, 0.25, 0.75), "perplexity": 12.0},
    notes=("A small model.",),
)


@pytest.fixture
def classifier(make_model: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Return a writer of sequence classifiers."""

    def write(labels: int = 1) -> Path:
        config = make_model().config.__class__(
            **{**make_model().config.to_dict(), "num_labels": labels}
        )
        folder = tmp_path / f"classifier-{labels}"
        transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        return folder

    return write


def make_run(path: Path, checkpoints: dict[str, Path], *, finished: bool = True) -> Path:
    run = RunFolder(path)
    for name, model in checkpoints.items():
        shutil.copytree(model, run.path / "checkpoints" / name)
    if finished:
        run.finish({})
    return path


def test_a_run_means_its_last_checkpoint_by_number(tmp_path: Path, model_folder: Folder) -> None:
    model = model_folder()
    run = make_run(tmp_path / "run", {"step-9": model, "step-10": model, "sft": model})
    assert stage_model(run) == str(run / "checkpoints" / "step-10")
    assert stage_model(run / "checkpoints" / "step-9") == str(run / "checkpoints" / "step-9")


def test_a_run_with_one_named_checkpoint_means_that_one(
    tmp_path: Path, model_folder: Folder
) -> None:
    run = make_run(tmp_path / "run", {"final": model_folder()})
    assert stage_model(str(run)) == str(run / "checkpoints" / "final")


def test_several_named_checkpoints_must_be_chosen_among(
    tmp_path: Path, model_folder: Folder
) -> None:
    run = make_run(tmp_path / "run", {"a": model_folder(), "b": model_folder()})
    with pytest.raises(CheckpointError, match=r"several models; name one: .*a or .*b"):
        stage_model(run)


def test_a_run_of_both_kinds_gives_the_wanted_one(
    tmp_path: Path, model_folder: Folder, classifier: Folder
) -> None:
    run = make_run(tmp_path / "run", {"step-4": model_folder(), "reward-model": classifier()})
    assert stage_model(run).endswith("step-4")
    assert stage_model(run, "reward-model").endswith("reward-model")


def test_an_unfinished_run_is_refused(tmp_path: Path, model_folder: Folder) -> None:
    run = make_run(tmp_path / "run", {"step-1": model_folder()}, finished=False)
    with pytest.raises(CheckpointError, match=r"not finished.*name a checkpoint: .*step-1"):
        stage_model(run)


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path, model_folder: Folder) -> None:
    model = model_folder()
    run = make_run(tmp_path / "run", {"step-1": model, ".step-2.partial-7": model})
    assert stage_model(run).endswith("step-1")


def test_the_other_kind_is_refused_with_the_command_that_makes_the_right_one(
    tmp_path: Path, model_folder: Folder, classifier: Folder
) -> None:
    with pytest.raises(
        ModelError, match=r"a reward-model, but a causal-lm is needed; textenvs sft"
    ):
        stage_model(classifier())
    with pytest.raises(ModelError, match=r"a causal-lm, but a reward-model.*; textenvs rm"):
        stage_model(model_folder(), "reward-model")
    with pytest.raises(ModelError, match="classifier of 2 labels"):
        stage_model(classifier(2), "reward-model")
    with pytest.raises(ModelError, match="textenvs rm"):
        stage_model(make_run(tmp_path / "run", {"step-1": model_folder()}), "reward-model")
    with pytest.raises(ModelError, match="textenvs rm"):
        stage_model("tiny-lm", "reward-model")


def test_aliases_and_hub_names_go_through() -> None:
    assert Path(stage_model("tiny-lm"), "config.json").is_file()
    assert stage_model("me/some-model") == "me/some-model"


def test_what_is_no_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs", "sft-0").mkdir(parents=True)
    with pytest.raises(UnknownNameError, match=r"'runs/sft-1'.*Did you mean 'runs/sft-0'"):
        stage_model("runs/sft-1")
    with pytest.raises(UnknownNameError, match="run or model folder"):
        stage_model(tmp_path / "absent")
    with pytest.raises(ModelError, match="neither a model"):
        stage_model("runs/sft-0")
    Path("notes.txt").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        stage_model("notes.txt")
    with pytest.raises(UnknownNameError, match="kind of model"):
        stage_model("tiny-lm", "model")  # type: ignore[arg-type]
    Path("damaged").mkdir()
    Path("damaged", "config.json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        stage_model("damaged")


def front_matter(text: str) -> dict[str, Any]:
    _, head, _ = text.split("---\n", 2)
    return dict(yaml.safe_load(head))


def test_the_card_says_what_made_the_model() -> None:
    text = CARD.render()
    head = front_matter(text)
    assert head["base_model"] == "me/base" and head["library_name"] == "transformers"
    assert "textenvs" in head["tags"] and "sft" in head["tags"] and "license" not in head
    assert "textenvs sft --model me/base" in text and "steps = 3" in text
    assert "| correct | 0.5 | 0.25 to 0.75 |" in text and "| perplexity | 12 |  |" in text
    assert "- A small model." in text and text == CARD.render()


def test_a_card_without_base_command_or_metrics_is_still_whole() -> None:
    card = ModelCard("pretrain", "", "text", "", {}, {})
    text = card.render()
    assert "base_model" not in front_matter(text)
    assert "random weights" in text and "Not evaluated." in text and "```bash" not in text


def test_a_local_base_is_no_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/sft").mkdir(parents=True)
    for name in ("runs/sft", "tiny-lm", "/srv/models/a"):
        assert "base_model" not in front_matter(ModelCard("dpo", name, "", "", {}, {}).render())
    head = front_matter(ModelCard("dpo", "smollm2-135m", "", "", {}, {}).render())
    assert head["base_model"].startswith("HuggingFaceTB/")


def test_values_cannot_break_out_of_the_card() -> None:
    card = ModelCard(
        "x: y", "a`b", "<script>alert(1)</script>", "echo ```\n# no heading", {}, {"a|b": 1.0}
    )
    text = card.render()
    assert "<script>" not in text and "````bash" in text and "| a\\|b |" in text
    assert "x: y" in front_matter(text)["tags"]


def test_a_stage_has_a_name() -> None:
    with pytest.raises(ConfigError, match="name of its stage"):
        ModelCard(" ", "", "", "", {}, {})


def test_a_published_folder_is_plain_hugging_face(model_folder: Folder, tmp_path: Path) -> None:
    policy = CausalLMPolicy.from_pretrained(model_folder(), bfloat16=False)
    policy.value_head.weight.data += 0.5
    folder = policy.save_pretrained(tmp_path / "published")
    publish(folder, CARD)
    assert json.loads((folder / "stage.json").read_text())["kind"] == "causal-lm"
    assert (folder / "README.md").read_text() == CARD.render()
    transformers.AutoModelForCausalLM.from_pretrained(folder)
    generator = transformers.pipeline("text-generation", str(folder))
    said = generator("ab", max_new_tokens=2, max_length=None, do_sample=False)
    assert said[0]["generated_text"].startswith("ab")
    again = CausalLMPolicy.from_pretrained(folder, bfloat16=False)
    assert again.value_head.weight.equal(policy.value_head.weight)


def test_a_reward_model_has_its_own_card(classifier: Folder) -> None:
    folder = classifier()
    publish(folder, CARD)
    text = (folder / "README.md").read_text()
    assert folder_kind(folder) == "reward-model"
    assert front_matter(text)["pipeline_tag"] == "text-classification" and "RewardModel" in text


def test_an_empty_folder_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no model"):
        publish(tmp_path, CARD)


def test_a_stage_ends_with_a_finished_run(tmp_path: Path, model_folder: Folder) -> None:
    run = RunFolder(tmp_path / "run")
    folder = Path(shutil.copytree(model_folder(), run.checkpoint(3)))
    assert finish_stage(run, folder, CARD, {"after": {}}) is None
    assert stage_model(run.path) == str(folder) and (folder / "README.md").is_file()
