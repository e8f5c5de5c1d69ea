"""Which launcher a coordinator has: the process launcher, or the one that its configuration names.

Kubernetes' is found by name, and only where it is configured: nothing else of the coordinator knows of it.
"""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.launchers.base import Launcher
from cordee.coordinator.service.launchers.process import AGENT_COMMAND, ProcessLauncher

if TYPE_CHECKING:
    from cordee.coordinator.config import Config, Tls

__all__ = ["open_launcher"]

_KUBERNETES = "cordee.k8s.launcher"


def open_launcher(
    config: "Config | None",
    *,
    folder: StateFolder,
    slots: int | None = None,
    agent_command: Sequence[str] = AGENT_COMMAND,
) -> Launcher:
    """The launcher of a coordinator. Raises CoordinatorError where what it needs is not installed."""
    if config is None or config.launcher == "process":
        connection = _connection(config.tls) if config is not None and config.tls is not None else None
        return ProcessLauncher(folder.root, slots=slots, command=agent_command, connection=connection)
    try:
        module: Any = importlib.import_module(_KUBERNETES)
    except ImportError as error:
        raise CoordinatorError(
            f"the launcher kubernetes cannot be loaded: {error}",
            hint="install Cordee with the extra 'kubernetes': pip install 'cordee[kubernetes]'",
        ) from error
    return cast("Launcher", module.open_launcher(config, folder))


def _connection(tls: "Tls") -> dict[str, str]:
    """How agents on this machine reach a coordinator that speaks TLS. Where it asks for certificates (mutual TLS) they
    show its own, whose files they can read as it does."""
    told = {"CORDEE_TLS": "1"}
    if tls.authority is not None:
        told["CORDEE_CA_FILE"] = tls.authority
    if tls.client_authority is not None:
        told |= {"CORDEE_CERT_FILE": tls.certificate, "CORDEE_KEY_FILE": tls.key}
    return told
