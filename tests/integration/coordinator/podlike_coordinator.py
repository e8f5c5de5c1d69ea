"""A coordinator whose agents share no folder with it: what pods are, without Kubernetes. For tests only.

    python podlike_coordinator.py STATE PODS [SLOTS]     the coordinator
    python podlike_coordinator.py                        an agent, as the coordinator's launcher starts it

Every start of an agent has a folder of its own below PODS, and knows the coordinator by its ports alone.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from cordee.coordinator.service.server import CoordinatorServer


async def coordinate(state: Path, pods: Path, slots: int) -> None:
    """Until it is told to end."""
    os.environ["PODS"] = str(pods)
    server = CoordinatorServer(state, slots=slots, agent_command=(sys.executable, __file__))
    await server.start()
    await server.serve_forever()


def become_agent() -> None:
    """Does not return."""
    worker, folder = os.environ["CORDEE_WORKER"], Path(os.environ["CORDEE_WORKDIR"])
    url = json.loads((folder.parent.parent / "endpoint.json").read_text())["url"]
    pod = Path(os.environ["PODS"]) / f"{worker}.{os.getpid()}"
    pod.mkdir(parents=True)
    os.environ |= {"CORDEE_WORKDIR": str(pod), "CORDEE_UPLOADS": f"{url}/v1/workers/{worker}"}
    os.environ["CORDEE_CHECKPOINT_STORAGE"] = os.environ["CORDEE_CHECKPOINT_STORAGE"].replace(str(folder), str(pod))
    os.chdir(pod)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "cordee.worker.agent"])


if __name__ == "__main__":
    if len(sys.argv) == 1:
        become_agent()
    asyncio.run(coordinate(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 3))
