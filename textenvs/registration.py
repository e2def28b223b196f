"""Registration of the suite's environments with Gymnasium."""

import gymnasium as gym

NAMESPACE = "textenvs"
SUITE = {
    "textenvs/ContextSelect-v0": (
        "textenvs.suite.context_select:ContextSelectEnv",
        "textenvs.suite.context_select:make_context_select_vec",
    ),
}
"""Id -> (entry point, vector entry point), as strings, so that nothing is imported yet."""


def register_suite() -> None:
    """Make every environment of the suite known to `gym.make` and `gym.make_vec`."""
    for env_id, (entry_point, vector_entry_point) in SUITE.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point, vector_entry_point=vector_entry_point)


def list_envs() -> list[str]:
    """Return the ids of the registered text environments, sorted."""
    return sorted(SUITE)
