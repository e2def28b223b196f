"""The layers: what imports what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import textenvs

ROOT = Path(textenvs.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
HEAVY = ("torch", "transformers", "peft", "datasets", "stable_baselines3", "scipy")


def loaded_after(code: str) -> set[str]:
    """Run code in a fresh interpreter; return the names of `HEAVY` that it has imported."""
    program = f"{code}\nimport sys\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


def test_importing_textenvs_is_light() -> None:
    assert loaded_after("import textenvs") == set()


def test_playing_a_rule_rewarded_environment_is_light() -> None:
    code = (
        "import gymnasium as gym, textenvs\n"
        "env = gym.make('textenvs/ContextSelect-v0', n_prompts=4)\n"
        "env.reset(seed=0); env.step(env.unwrapped.tokenizer.eos_id)\n"
        "gym.make_vec('textenvs/ContextSelect-v0', num_envs=2, n_prompts=4).reset(seed=0)"
    )
    assert loaded_after(code) == set()


def test_the_probe_sees_torch() -> None:
    """Negative control."""
    assert "torch" in loaded_after("import textenvs.models")


def test_parts_are_there_when_asked_for() -> None:
    assert loaded_after("import textenvs; textenvs.checker.check; textenvs.audit.audit") == set()
    found = loaded_after("import textenvs; textenvs.bridges.sb3.SB3VecEnv")
    assert "stable_baselines3" in found
    with pytest.raises(AttributeError, match="no attribute 'chequer'"):
        getattr(textenvs, "chequer")  # noqa: B009


def test_importing_agents_is_light() -> None:
    assert loaded_after("import agents") == set()


def imported(tree: ast.AST) -> set[str]:
    """Return the top-level packages a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are banned"
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_textenvs_never_imports_agents(path: Path) -> None:
    assert "agents" not in imported(ast.parse(path.read_text(encoding="utf-8")))


def test_the_walk_sees_nested_imports() -> None:
    """Negative control."""
    assert imported(ast.parse("def f():\n    from agents.ppo import PPO")) == {"agents"}
    assert len(MODULES) > 15
