"""The tests' cluster, to be tried by hand: `python tests/cluster/up.py`, as root; Ctrl-C takes it down.

A shell's background jobs ignore that: there it is SIGTERM.

It prints what to set so that kubectl and helm find it. The image `cordee:test` is this checkout. Services and pods have
addresses of their own, and this machine reaches both; names resolve in pods only.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from cluster import binaries
from cluster.control_plane import ControlPlane
from cluster.kubelet.cluster import Cluster
from cluster.kubelet.firewall import missing as firewall_missing
from cluster.kubelet.network import Network


def main() -> None:
    if lacking := binaries.missing():
        sys.exit(binaries.HOW_TO_GET.format(missing=", ".join(lacking)))
    with tempfile.TemporaryDirectory(prefix="cordee-cluster-") as folder:
        network = Network.reserve()
        with ControlPlane(Path(folder), service_range=network.services) as plane, Cluster(plane, network):
            programs = Path(binaries.binary("kubectl")).parent, Path(binaries.binary("helm")).parent
            print(f"export KUBECONFIG={plane.kubeconfig}")
            print(f'export PATH="{":".join(map(str, programs))}:$PATH"')
            if why := firewall_missing():
                print(f"# NetworkPolicies do nothing: {why}")
            print("# three nodes are up; Ctrl-C ends it", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
