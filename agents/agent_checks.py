"""Whether a learner, its settings and its environment go together; refused at the start."""

from typing import TYPE_CHECKING, Any

from textenvs.errors import ConfigError, DoubleCountingError
from textenvs.reference import CausalLMReference

if TYPE_CHECKING:
    from agents.on_policy import OnPolicyAgent


def check_agent(agent: "OnPolicyAgent") -> None:
    """Refuse an agent that could not learn, or not what its settings say.

    Raises:
        ConfigError: with the value, the rule and the remedy.
        DoubleCountingError: if the KL would be charged twice.
    """
    _check_config(agent)
    _check_task(agent)
    _check_kl(agent)


def _check_config(agent: "OnPolicyAgent") -> None:
    config, name = agent.config, type(agent).__name__
    if not isinstance(config, agent.config_class):
        raise ConfigError(
            f"{name} takes a {agent.config_class.__name__}, got {type(config).__name__}"
        )
    if (config.ptx_coef > 0) != (agent.pretraining is not None):
        raise ConfigError(
            f"ptx_coef={config.ptx_coef:g} and pretraining={agent.pretraining!r} do not go "
            "together: the mix needs a coefficient above 0 and a text, pretraining="
            "PretrainingMix(...) or on the command line --pretraining TEXT"
        )


def _check_task(agent: "OnPolicyAgent") -> None:
    task: Any = agent.env.unwrapped
    name = type(agent).__name__
    if task.max_episode_steps is not None:
        raise ConfigError(
            f"{name} learns from whole answers, but this environment truncates them unscored "
            f"after max_episode_steps={task.max_episode_steps} tokens; set max_new_tokens "
            "instead, which is part of the task"
        )
    if agent.needs_groups and task.samples_per_prompt < 2:
        raise ConfigError(
            f"{name} compares several answers to one prompt; make the environment with "
            "samples_per_prompt=4 or so (num_envs a multiple of it)"
        )


def _check_kl(agent: "OnPolicyAgent") -> None:
    config, shaping = agent.config, agent.shaping
    if shaping is None:
        # A learner whose own default is the loss does without where there is no reference.
        if config.kl_in == "loss" and agent.config_class().kl_in != "loss":
            raise ConfigError(
                'kl_in="loss" needs the reference\'s log-probabilities; make the environment '
                "with reference=... and kl_coef=..., or wrap it in VectorReferenceKL"
            )
        return
    if shaping.policy_logprob and (config.kl_in == "loss" or config.kl_estimator != "k1"):
        raise DoubleCountingError(
            "the environment charges the whole KL (policy_logprob=True), with the estimator "
            f'{shaping.estimator!r}; leave kl_in="reward" and kl_estimator="k1" here, or '
            "wrap it without policy_logprob"
        )
    reference, temperature = shaping.reference, agent.policy.temperature
    if isinstance(reference, CausalLMReference) and reference.temperature != temperature:
        # Their KL would not be 0 at the start.
        raise ConfigError(
            f"the policy samples at temperature {temperature}, the reference is asked at "
            f"{reference.temperature}; pass reference=policy.reference(), or "
            f"CausalLMReference(model, temperature={temperature})"
        )
