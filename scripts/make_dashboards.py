"""Writes Grafana's dashboards, which the Helm chart ships, from scripts/dashboards.

    python scripts/make_dashboards.py            # rewrites helm/cordee/files/dashboards/*.json
    python scripts/make_dashboards.py --check    # changes nothing; exit code 1 when a file is not up to date

It needs the foundation SDK: pip install -e '.[lint]'.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.dashboards import DASHBOARDS, to_json  # noqa: E402

FOLDER = ROOT / "helm" / "cordee" / "files" / "dashboards"


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description="Writes helm/cordee/files/dashboards/*.json.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is not up to date")
    check = parser.parse_args().check
    wanted = {FOLDER / f"{name}.json": to_json(make()) for name, make in DASHBOARDS.items()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    stale += [path for path in FOLDER.glob("*.json") if path not in wanted]
    if check:
        for path in stale:
            sys.stderr.write(f"{path.name} is not up to date: run python scripts/make_dashboards.py\n")
        return int(bool(stale))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in stale:
        if path in wanted:
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
