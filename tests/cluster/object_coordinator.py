"""`cordee coordinator` with TrainingJob objects and agents as processes: what a test needs that has no pods.

python object_coordinator.py STATE KUBECONFIG NAMESPACE
"""

import asyncio
import logging
import sys
from pathlib import Path

from cordee.coordinator.config import Kubernetes
from cordee.coordinator.service.server import CoordinatorServer
from cordee.k8s.api import Api
from cordee.k8s.controller import ObjectsFront


async def main(state: Path, kubeconfig: str, namespace: str) -> None:
    api = Api.connect(Kubernetes(kubeconfig=kubeconfig, namespace=namespace))
    server = CoordinatorServer(state, slots=8, fronts=[ObjectsFront(api, "cordee")])
    await server.start()
    await server.serve_forever()
    await server.stop(stop_jobs=False)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
