"""A worker process for the tests that kill one: reduces for ever, and says when and how the world broke.

    mesh_worker.py RANK ELEMENTS COMPUTE_SECONDS [--fork]

It prints its address, reads all members' addresses (one JSON line), then prints one JSON line when it is under way and
one when `PeerLostError` is raised. Times are of the monotonic clock, which the processes of one machine share.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np

from cordee.trainer.elastic import tree
from cordee.trainer.elastic.protocols import PeerLostError
from cordee.worker.communicator import connect
from cordee.worker.listener import Listener
from cordee.worker.mesh import Peer
from cordee.worker.testing import KEY

NUM_SHARDS = 8


def main() -> None:
    rank, elements, compute_seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    listener = Listener("127.0.0.1")
    print(listener.address, flush=True)
    addresses = json.loads(sys.stdin.readline())
    members = [Peer(peer, f"job-w{peer}", "0", address) for peer, address in enumerate(addresses)]
    communicator = connect(listener, generation=1, rank=rank, members=members, key=KEY)
    cover = tree.cover(*tree.deal(NUM_SHARDS, len(members))[rank], NUM_SHARDS)
    partials = {span: np.ones(elements, np.float32) for span in cover}
    out = np.empty(elements, np.float32)
    count = 0
    try:
        while True:
            communicator.all_reduce(partials, out, num_shards=NUM_SHARDS, header=b"header")
            count += 1
            if count == 3:
                print(json.dumps({"running": time.monotonic()}), flush=True)
                if "--fork" in sys.argv and rank == 1:
                    child = os.fork()
                    if not child:
                        time.sleep(30)
                        os._exit(0)
                    print(child, flush=True)
            if compute_seconds:
                time.sleep(compute_seconds)  # stands for the time in which a worker does not look at its sockets
    except PeerLostError as error:
        seen = time.monotonic()
        again = []
        for _ in range(2):
            try:
                communicator.all_reduce(partials, out, num_shards=NUM_SHARDS)
            except PeerLostError as repeated:
                again.append(list(repeated.ranks))
        print(json.dumps({"seen": seen, "ranks": list(error.ranks), "again": again, "count": count}), flush=True)


if __name__ == "__main__":
    main()
