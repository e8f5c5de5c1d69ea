"""What images there are, and what a container of one sees of this machine: its system folders, and what it was given.

Nothing is pulled. An image is a name with an entry point, an environment, a user; and its files are this machine's
/usr, /etc and so on, over which lies a layer that hides everything else (/tmp, /root, /home, …): a pod that could read
the coordinator's folder directly would pass tests that no cluster passes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["CORDEE", "Image", "Layers", "shell_image", "this_checkout"]

CHECKOUT = Path(__file__).resolve().parents[3]
PACKAGES = ("trainer", "worker", "coordinator", "k8s", "proto")
SHOWN = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "usr")
EMPTY = ("home", "media", "mnt", "opt", "root", "run", "srv", "var/lib", "var/log", "var/cache")
CORDEE = "cordee:test"
USER = 65532


@dataclass(frozen=True, slots=True)
class Image:
    """What a Dockerfile says: ENTRYPOINT, CMD, ENV, WORKDIR, USER; and folders: where → layers, uppermost first."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: int = 0
    group: int = 0
    folders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def shell_image() -> Image:
    """An image like busybox: the system's own programs."""
    return Image(command=("sh",), env={"PATH": PATH})


def this_checkout(layers: Layers, *, entrypoint: tuple[str, ...] = ("cordee",)) -> Image:
    """The image that this checkout's Dockerfile makes: the environment of this Python, with the packages in it.

    The environment lies at /opt/cordee whatever its place here, so that a user without rights on that place can read
    it, and so that a volume at /tmp does not hide it. A layer over it holds what names the place: the scripts' first
    lines, the interpreter's link, and where the packages are.
    """
    environment, base = Path(sys.prefix), Path(sys.base_prefix)
    packages = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    layer = layers.folder / "cordee"
    if not layer.exists():
        (layer / "bin").mkdir(parents=True)
        (layer / packages).mkdir(parents=True)
        interpreter = Path(os.path.realpath(sys.executable))
        for name in ("python", "python3"):
            (layer / "bin" / name).symlink_to(interpreter)
        script = layer / "bin" / "cordee"
        script.write_text(
            "#!/opt/cordee/bin/python\nimport sys\nfrom cordee.coordinator.cli import main\nsys.exit(main())\n"
        )
        script.chmod(0o755)
        lines = [f"/opt/cordee-source/{name}\n" for name in PACKAGES]
        (layer / packages / "_cordee.pth").write_text("".join(lines))
        for folder in [layer, *(p for p in layer.rglob("*") if p.is_dir())]:
            folder.chmod(0o755)
    folders = {"/opt/cordee": (str(layer), str(environment))}
    for name in PACKAGES:
        folders[f"/opt/cordee-source/{name}"] = (str(CHECKOUT / name),)
    if base.parts[1] not in SHOWN:
        folders[str(base)] = (str(base),)
    return Image(
        entrypoint=entrypoint,
        command=("coordinator",),
        env={
            "PATH": f"/opt/cordee/bin:{PATH}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        workdir="/var/lib/cordee",
        user=USER,
        group=USER,
        folders=folders,
    )


class Layers:
    """The folder of what lies over this machine's files; made once for all nodes of a cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        self._base = folder / "base"
        if not self._base.exists():
            self._make_base()

    @property
    def lower(self) -> list[str]:
        """The layers of every container's root, uppermost first."""
        return [str(self._base), "/"]

    def _make_base(self) -> None:
        base = self._base
        base.mkdir(mode=0o755)
        for name in sorted({entry.name for entry in os.scandir("/") if entry.is_dir(follow_symlinks=False)}):
            if name not in (*SHOWN, "var", "lost+found", "old_root"):
                self._hide(name)
        for name in ("var", "lost+found", "old_root"):
            if (Path("/") / name).is_dir():
                self._hide(name)
        for name in EMPTY:
            (base / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in ("tmp", "var/tmp"):
            (base / name).mkdir(exist_ok=True)
            (base / name).chmod(0o1777)
        work = base / "var/lib/cordee"
        work.mkdir(mode=0o750)
        os.chown(work, USER, USER)
        (base / "etc").mkdir(mode=0o755)
        for name, line in (
            ("passwd", f"cordee:x:{USER}:{USER}::/var/lib/cordee:/usr/sbin/nologin\n"),
            ("group", f"cordee:x:{USER}:\n"),
        ):
            (base / "etc" / name).write_text((Path("/etc") / name).read_text() + line)
            (base / "etc" / name).chmod(0o644)

    def _hide(self, name: str) -> None:
        folder = self._base / name
        folder.mkdir(mode=0o755)
        os.setxattr(folder, "trusted.overlay.opaque", b"y")
