"""Takes more memory than it may have."""

import sys
import time

hoard = b"x" * (int(sys.argv[1]) << 20)
print(f"it holds {len(hoard) >> 20} MiB", flush=True)
time.sleep(120)
