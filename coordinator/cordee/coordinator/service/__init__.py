"""The coordinator's service: the asyncio edge around the pure machines of `cordee.coordinator.core`.

    REST (people) ─┐                      ┌─ store: SQLite, written before anything is acted on
                   ├─ controller ─ core ──┤
    gRPC (workers) ┘  one loop   (pure)   └─ launchers: agents on a substrate

`server` puts the parts together; everything else is reached from there. Importing this package imports none of them.
"""

import os

# gRPC's core writes to stderr by itself, also about what is normal here (a stream that a killed worker leaves behind).
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
