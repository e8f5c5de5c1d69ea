"""Other ways than REST by which people see jobs and ask for things: on Kubernetes, TrainingJob objects.

A front has the controller, as REST has it. It starts when the jobs have been taken up, and is closed before they are
let go. Nothing that it cannot reach may hold the coordinator up.
"""

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.launchers.base import Launcher

if TYPE_CHECKING:
    from cordee.coordinator.config import Config

__all__ = ["Front", "open_fronts"]

_OBJECTS = "cordee.k8s.controller"


class Front(Protocol):
    """A way in. Used on the coordinator's event loop."""

    async def start(self, controller: Controller) -> None:
        """Begin. What cannot be reached is tried again beside, and not waited for."""
        ...

    async def close(self) -> None:
        """End; when this returns the controller is not used any more."""
        ...


def open_fronts(config: "Config | None", launcher: Launcher) -> list[Front]:
    """What the configuration asks for. Opened beside the launcher: it may have questions to a front."""
    if config is None or config.launcher != "kubernetes" or not config.kubernetes.custom_resources:
        return []
    module: Any = importlib.import_module(_OBJECTS)  # it is there: the launcher was found beside it
    return [cast("Front", module.open_front(config.kubernetes, launcher))]
