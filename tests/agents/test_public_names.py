"""Public names stay what they are, whichever module is imported first."""

import subprocess
import sys


def test_sft_is_the_function_after_its_module_was_imported() -> None:
    code = "import agents.fine_tuning, agents; assert callable(agents.sft); agents.PPO"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
