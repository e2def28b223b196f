"""Plug-ins: a package installed for real, in a folder of its own, seen by a fresh interpreter."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parent.parent / "plugin"
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"


def install(folder: Path, name: str, version: str, entry_points: str) -> None:
    """Lay a distribution out as pip does: its metadata beside its modules."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA.format(name=name, version=version))
    (info / "entry_points.txt").write_text(entry_points)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample package, and a second one that wants the same id."""
    import tomllib

    folder: Path = tmp_path_factory.mktemp("site")
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    group = project["entry-points"]["textenvs.envs"]
    lines = "\n".join(f"{name} = {target}" for name, target in group.items())
    install(folder, project["name"], project["version"], f"[textenvs.envs]\n{lines}\n")
    install(folder, "rival", "0.1", "[textenvs.envs]\nacme/Echo-v0 = rival:Env\n")
    (folder / "acme_envs").symlink_to(PACKAGE / "acme_envs")
    return folder


def run(site: Path, program: str) -> Any:
    """Run a program in a fresh interpreter that sees the packages; return what it prints."""
    code = f"import sys; sys.path.insert(0, {str(site)!r})\nimport json, warnings\n{program}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_listed_without_an_import(site: Path) -> None:
    program = (
        "import textenvs\n"
        "from textenvs.registration import describe\n"
        "loaded = any(name.startswith('acme') for name in sys.modules)\n"
        "print(json.dumps([textenvs.list_envs(), describe('acme/Echo-v0'), loaded]))"
    )
    ids, words, loaded = run(site, program)
    assert {"acme/Echo-v0", "acme/Shout-v0", "textenvs/ContextSelect-v0"} <= set(ids)
    assert not {"Nameless", "textenvs/Stolen-v0"} & set(ids)
    assert words == "plug-in of the package acme-envs 1.2.0"
    assert not loaded


def test_imported_when_made(site: Path) -> None:
    program = (
        "import gymnasium as gym, textenvs\n"
        "env = gym.make('acme/Echo-v0', repeat=2).unwrapped\n"
        "prompt = env.prompts[0]\n"
        "score = float(env.score(prompt, [env.oracle(prompt)]).scores[0])\n"
        "venv = gym.make_vec('acme/Echo-v0', num_envs=3)\n"
        "shout = gym.make('acme/Shout-v0', max_new_tokens=5)\n"
        "print(json.dumps([type(env).__name__, prompt.reference, score, type(venv).__name__,"
        " shout.unwrapped.prompts[0].text, gym.make_vec('acme/Shout-v0', num_envs=2).num_envs,"
        " 'acme_envs.broken' in sys.modules]))"
    )
    expected = ["EchoEnv", "salt salt", 1.0, "TextVectorEnv", "Shout salt:", 2, False]
    assert run(site, program) == expected


def test_the_broken_are_named_and_the_rest_works(site: Path) -> None:
    program = (
        "import gymnasium as gym, textenvs\n"
        "from textenvs.errors import PluginError\n"
        "said = {}\n"
        "for name in ('Broken', 'NoTask', 'Absent'):\n"
        "    try: gym.make(f'acme/{name}-v0')\n"
        "    except PluginError as error: said[name] = str(error)\n"
        "from textenvs.plugins import PLUGIN_FAULTS\n"
        "gym.make('textenvs/ContextSelect-v0', n_prompts=2)\n"
        "gym.make('acme/Echo-v0')\n"
        "print(json.dumps([said, PLUGIN_FAULTS]))"
    )
    said, faults = run(site, program)
    assert "acme-envs 1.2.0" in said["Broken"] and "batteries" in said["Broken"]
    assert "neither a subclass" in said["NoTask"]
    assert "AbsentEnv" in said["Absent"]
    text = "\n".join(faults)
    assert "'Nameless'" in text and "namespace/Name-vN" in text
    assert "'textenvs/Stolen-v0'" in text and "belongs to the suite" in text
    assert "of rival 0.1 is left out: the id 'acme/Echo-v0' is taken" in text
    assert len(faults) == 3


def test_without_plugins_there_is_none() -> None:
    program = (
        "import textenvs\nfrom textenvs.plugins import PLUGINS, PLUGIN_FAULTS\n"
        "print(json.dumps([[p for p in PLUGINS if p.startswith('acme')], PLUGIN_FAULTS]))"
    )
    assert run(Path("/nonexistent"), program) == [[], []]
