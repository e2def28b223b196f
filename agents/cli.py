"""The command `textenvs`."""

import importlib
import sys
from collections.abc import Sequence

from agents.command_line.console import Console
from textenvs.errors import TextEnvsError, suggest

USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 for faults found, 2 for a user's mistake."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    if not words or words[0] in ("-h", "--help"):
        console.say(_usage())
        return 0 if words else USER_ERROR
    if words[0] == "--version":
        import textenvs

        console.say(f"textenvs {textenvs.__version__}")
        return 0
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        _complain(f"unknown command {command!r}. {suggest(command, COMMANDS)}")
        return USER_ERROR
    module, _, function = COMMANDS[command].partition(":")
    try:
        return int(getattr(importlib.import_module(module), function)(rest, console))
    except TextEnvsError as error:
        _complain(str(error))
        return USER_ERROR
    except SystemExit as stop:  # a wrong flag: the library has said what and why
        return stop.code if isinstance(stop.code, int) else USER_ERROR
    except KeyboardInterrupt:
        _complain("interrupted; what was finished is kept")
        return 130
    except BrokenPipeError:
        return 0


def _complain(text: str) -> None:
    print(f"textenvs: {text}", file=sys.stderr)


COMMANDS = {
    "demo": "agents.command_line.commands:demo",
    "list": "agents.command_line.inspection:print_list",
    "info": "agents.command_line.inspection:print_info",
    "check": "agents.command_line.checking:print_check",
    "audit": "agents.command_line.auditing:print_audit",
    "pretrain": "agents.command_line.pretraining:pretrain",
    "sft": "agents.command_line.fine_tuning:fine_tune",
    "preferences": "agents.command_line.preferring:build_preferences",
    "rm": "agents.command_line.reward_modeling:train_reward_model",
    "dpo": "agents.command_line.preference_tuning:tune",
    "train": "agents.command_line.commands:train",
    "evaluate": "agents.command_line.commands:evaluate_model",
    "bench": "agents.command_line.benchmarking:bench",
    "report": "agents.command_line.reporting:report",
    "replay": "agents.command_line.replay:replay_recording",
    "doctor": "agents.command_line.inspection:print_doctor",
}
"""Imported when called, so that `textenvs list` does not wait for torch."""

HELP = {
    "demo": "watch a small language model learn to answer only from a list (minutes)",
    "list": "the registered environments",
    "info": "one environment: spaces, a sample prompt, the right answer, its reward",
    "check": "is an environment sound: contract, leaks, determinism, batches, reward, splits",
    "audit": "how a reward can be gamed: scripted exploits, null policies, laws, a search",
    "pretrain": "a causal language model on running text, from scratch or continued",
    "sft": "supervised fine-tuning on right answers, a file or instruction data",
    "preferences": "ranked answers: from the context, from samples, by a judge, from a file",
    "rm": "a reward model trained on ranked answers",
    "dpo": "direct preference optimisation on ranked answers, without a reward model",
    "train": "PPO, GRPO, ... on any causal language model, or an agent of your own",
    "evaluate": "gold metrics on held-out prompts, with 95% intervals",
    "bench": "reward designs x agents x seeds, with statistics and verdicts",
    "report": "one page of a run or a benchmark, readable offline",
    "replay": "recorded episodes through their environment again, compared bit for bit",
    "doctor": "check this installation",
}


def _usage() -> str:
    lines = [f"  {name:<13}{words}" for name, words in HELP.items()]
    return "\n".join(
        [
            "usage: textenvs COMMAND [options]",
            "",
            *lines,
            "",
            "textenvs COMMAND --help lists the options of a command.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
