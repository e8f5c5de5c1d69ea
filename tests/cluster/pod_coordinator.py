"""`cordee coordinator --config FILE` with less patience than a command has: what a test of missing images waits for.

python pod_coordinator.py CONFIG DOUBT_SECONDS
"""

import asyncio
import logging
import sys
from pathlib import Path

from cordee.coordinator.config import load_config
from cordee.coordinator.core.model import Policy
from cordee.coordinator.service.server import CoordinatorServer


async def main(path: Path, doubt_seconds: float) -> None:
    config = load_config(path)
    assert config.state is not None
    policy = Policy(doubt_seconds=doubt_seconds)
    server = CoordinatorServer(Path(config.state), config.listen.host, config=config, policy=policy)
    await server.start()
    await server.serve_forever()
    await server.stop(stop_jobs=False)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
