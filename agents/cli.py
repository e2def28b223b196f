"""The command `textenvs`."""

import sys
from collections.abc import Callable, Sequence

from agents.console import Console
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
    try:
        return COMMANDS[command](rest, console)
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


def _list(arguments: Sequence[str], console: Console) -> int:
    from agents.inspection import print_list

    return print_list(arguments, console)


def _info(arguments: Sequence[str], console: Console) -> int:
    from agents.inspection import print_info

    return print_info(arguments, console)


def _doctor(arguments: Sequence[str], console: Console) -> int:
    from agents.inspection import print_doctor

    return print_doctor(arguments, console)


def _train(arguments: Sequence[str], console: Console) -> int:
    from agents.commands import train

    return train(arguments, console)


def _sft(arguments: Sequence[str], console: Console) -> int:
    from agents.commands import fine_tune

    return fine_tune(arguments, console)


def _evaluate(arguments: Sequence[str], console: Console) -> int:
    from agents.commands import evaluate_model

    return evaluate_model(arguments, console)


def _demo(arguments: Sequence[str], console: Console) -> int:
    from agents.commands import demo

    return demo(arguments, console)


COMMANDS: dict[str, Callable[[Sequence[str], Console], int]] = {
    "demo": _demo,
    "list": _list,
    "info": _info,
    "train": _train,
    "sft": _sft,
    "evaluate": _evaluate,
    "doctor": _doctor,
}
"""Each imports what it needs when called, so that `textenvs list` does not wait for torch."""

HELP = {
    "demo": "watch a small language model learn to answer only from a list (minutes)",
    "list": "the registered environments",
    "info": "one environment: spaces, a sample prompt, the right answer, its reward",
    "train": "PPO on any causal language model",
    "sft": "supervised fine-tuning on an environment's right answers",
    "evaluate": "gold metrics on held-out prompts, with 95% intervals",
    "doctor": "check this installation",
}


def _usage() -> str:
    lines = [f"  {name:<10}{words}" for name, words in HELP.items()]
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
