"""Plug-ins: environments of other packages, through the entry-point group `textenvs.envs`.

A package declares each environment by its id:

```toml
[project.entry-points."textenvs.envs"]
"acme/Echo-v0" = "acme_envs.echo:EchoEnv"
```

The object is a subclass of `TaskEnv`, or a task: a function from options to the arguments
of `TextEnv`. The metadata is read when textenvs is imported; the package itself only when
its id is made. A plug-in that is broken says so when it is made, or in `textenvs list`,
and takes nothing else down.
"""

import inspect
import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import gymnasium as gym

from textenvs.env import TextEnv
from textenvs.errors import PluginError, RegistrationError, UnknownNameError
from textenvs.suite import NAMESPACE
from textenvs.task_env import TaskEnv, make_task_vec, task_arguments

GROUP = "textenvs.envs"
ID_PATTERN = re.compile(r"(?:([\w-]+)/)?[\w.-]+-v\d+")
MAKE = "textenvs.plugins:make_plugin"


@dataclass(frozen=True)
class Plugin:
    """One environment that another package brings.

    Attributes:
        id: The name of its entry point.
        package: The distribution that declares it.
        version: Of the distribution.
        target: `module:object`.
    """

    id: str
    package: str
    version: str
    target: str

    def load(self) -> Any:
        """Import the object.

        Raises:
            PluginError: if that fails for whatever reason, or it is no task.
        """
        try:
            found = EntryPoint(self.id, self.target, GROUP).load()
        except Exception as error:  # whatever the package does wrong is its fault, not ours
            raise PluginError(
                f"the plug-in {self.id!r} of {self.package} {self.version} cannot be loaded from "
                f"{self.target}: {type(error).__name__}: {error}; update or uninstall that package"
            ) from error
        if (inspect.isclass(found) and issubclass(found, TaskEnv)) or inspect.isfunction(found):
            return found
        raise PluginError(
            f"the plug-in {self.id!r} of {self.package} {self.version} names {self.target}, which "
            "is neither a subclass of textenvs.task_env.TaskEnv nor a task function"
        )


PLUGINS: dict[str, Plugin] = {}
"""The plug-ins that were registered, by id."""

PLUGIN_FAULTS: list[str] = []
"""What kept other plug-ins from being registered."""


def register_plugins() -> None:
    """Make every plug-in known to Gymnasium, importing none of them."""
    for found in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        package = found.dist.name if found.dist else "?"
        version = found.dist.version if found.dist else "?"
        plugin = Plugin(found.name, package, version, found.value)
        try:
            check_id(plugin.id)
        except RegistrationError as error:
            _report(plugin, str(error))
            continue
        if PLUGINS.get(plugin.id) == plugin:
            continue  # declared twice by one package, as an editable install may
        if plugin.id in gym.registry:
            _report(plugin, f"the id {plugin.id!r} is taken")
            continue
        PLUGINS[plugin.id] = plugin
        gym.register(
            plugin.id, MAKE, vector_entry_point=f"{MAKE}_vec", kwargs={"plugin_id": plugin.id}
        )


def _report(plugin: Plugin, why: str) -> None:
    fault = f"the plug-in {plugin.id!r} of {plugin.package} {plugin.version} is left out: {why}"
    if fault not in PLUGIN_FAULTS:
        PLUGIN_FAULTS.append(fault)


def check_id(env_id: str) -> None:
    """Refuse an id that Gymnasium or the suite could not take.

    Raises:
        RegistrationError: saying why.
    """
    match = ID_PATTERN.fullmatch(env_id)
    if match is None:
        raise RegistrationError(
            f"{env_id!r} is no id of an environment; it must be namespace/Name-vN, such as "
            "me/MyEnv-v0"
        )
    if match[1] == NAMESPACE:
        raise RegistrationError(
            f"the namespace {NAMESPACE!r} in {env_id!r} belongs to the suite; use one of your own"
        )


def find_plugin(plugin_id: str) -> Plugin:
    """Return an installed plug-in.

    Raises:
        UnknownNameError: if there is none of this id.
    """
    if plugin_id not in PLUGINS:
        raise UnknownNameError("plug-in", plugin_id, PLUGINS, "Install the package that has it.")
    return PLUGINS[plugin_id]


class PluginEnv(TextEnv):
    """An environment whose task a plug-in brings."""

    def __init__(self, task: Any, *, render_mode: str | None = None, **options: Any) -> None:
        """Build the environment; options as in `TaskEnv`."""
        super().__init__(**task_arguments(task, options), render_mode=render_mode)


def make_plugin(plugin_id: str, **options: Any) -> TextEnv:
    """Build the environment of a plug-in."""
    found = find_plugin(plugin_id).load()
    if inspect.isclass(found):
        return cast(type[TaskEnv], found)(**options)
    return PluginEnv(found, **options)


def make_plugin_vec(num_envs: int = 1, *, plugin_id: str, **options: Any) -> Any:
    """Build the vector environment of a plug-in."""
    found = find_plugin(plugin_id).load()
    if inspect.isclass(found):
        return cast(type[TaskEnv], found).make_vec(num_envs, **options)
    return make_task_vec(found, num_envs, **options)
