"""A coordinator whose agents share no folder with it: what pods are, without Kubernetes. For tests only.

    python podlike_coordinator.py STATE PODS     the coordinator
    python podlike_coordinator.py                an agent, as the coordinator's launcher starts it

Every start of an agent has a folder of its own below PODS, and knows the coordinator by its ports alone. With
CONTAINED=1 it is also process 1 of a namespace, as a user without a name, on a root that is read-only (`pid_one.sh`).
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from cordee.coordinator.service.server import CoordinatorServer

AGENT = (sys.executable, "-P", "-m", "cordee.worker.agent")
CHECKOUT = Path(__file__).resolve().parents[3]
CONTAINED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", str(Path(__file__).with_name("pid_one.sh")))


async def coordinate(state: Path, pods: Path) -> None:
    """Until it is told to end."""
    os.environ["PODS"] = str(pods)
    server = CoordinatorServer(state, slots=3, agent_command=(sys.executable, __file__))
    await server.start()
    await server.serve_forever()


def become_agent() -> None:
    """Does not return."""
    worker, folder = os.environ["CORDEE_WORKER"], Path(os.environ["CORDEE_WORKDIR"])
    url = json.loads((folder.parent.parent / "endpoint.json").read_text())["url"]
    pod = Path(os.environ["PODS"]) / f"{worker}.{os.getpid()}"
    pod.mkdir(parents=True)
    os.environ |= {
        "CORDEE_WORKDIR": str(pod),
        "CORDEE_UPLOADS": f"{url}/v1/workers/{worker}",
        "CORDEE_CHECKPOINT_SECONDS": "0",  # there is no storage that all of them see
        "NEEDED": ":".join((sys.base_prefix, sys.prefix, str(CHECKOUT))),  # pid_one.sh's
    }
    os.chdir(pod)
    command = (*CONTAINED, *AGENT) if os.environ.get("CONTAINED") else AGENT
    os.execvp(command[0], command)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        become_agent()
    asyncio.run(coordinate(Path(sys.argv[1]), Path(sys.argv[2])))
