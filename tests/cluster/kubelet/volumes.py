"""The volumes of a pod, as folders on this machine that its containers have mounted.

What comes from the API (ConfigMaps, Secrets, tokens, the pod's own fields) lies in a folder of its own behind the link
`..data`, which is swapped as a whole when something changed: a reader never sees half of an update.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.kubelet.environment import ConfigError, Objects, data_of, field_of, quantity, resource_of

__all__ = ["Claims", "File", "Owner", "Tokens", "Volumes", "write_atomically"]

Json = dict[str, Any]
FROM_API = ("configMap", "secret", "projected", "downwardAPI")
REFRESH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class Owner:
    """`fsGroup`, and the user that all of the pod's containers run as, where there is one."""

    group: int | None = None
    user: int | None = None


class Tokens:
    """Service-account tokens of one pod, by audience and lifetime; a new one when four fifths of its time are over."""

    def __init__(self, api: Any, pod: Json) -> None:
        self._api, self._pod = api, pod
        self._known: dict[tuple[str, int], tuple[float, bytes]] = {}

    async def token(self, audience: str, seconds: int) -> bytes:
        due, token = self._known.get((audience, seconds), (0.0, b""))
        if time.time() < due:
            return token
        meta, account = self._pod["metadata"], self._pod["spec"].get("serviceAccountName") or "default"
        answer = await self._api.create(
            f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {
                    **({"audiences": [audience]} if audience else {}),
                    "expirationSeconds": seconds,
                    "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
                },
            },
        )
        token = answer["status"]["token"].encode()
        self._known[audience, seconds] = (time.time() + 0.8 * seconds, token)
        return token


class Claims:
    """Where the data of persistent volumes lies: one folder each, the same for all nodes of a cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def folder_of(self, volume: Json) -> Path:
        """Of a PersistentVolume that `storage` made."""
        path: str = ((volume.get("spec") or {}).get("nfs") or {}).get("path") or ""
        name = path.strip("/")
        if not name or "/" in name:
            raise ConfigError(f"persistent volume {volume['metadata']['name']} is not of this test cluster's storage")
        folder = self.folder / name
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o777)
        return folder


def write_atomically(folder: Path, files: Mapping[str, File], owner: Owner) -> bool:
    """Makes the folder hold these files and no other, all at once; says whether anything changed."""
    wanted = {name: (file.content, file.mode) for name, file in files.items()}
    link = folder / "..data"
    current: dict[str, tuple[bytes, int]] = {}
    if link.is_symlink():
        base = link.resolve()
        for path in base.rglob("*"):
            if path.is_file():
                current[str(path.relative_to(base))] = (
                    path.read_bytes(),
                    files[n].mode if (n := str(path.relative_to(base))) in files else 0,
                )
    if link.is_symlink() and current == wanted:
        return False
    fresh = folder / time.strftime(f"..%Y_%m_%d_%H_%M_%S.{time.monotonic_ns() % 10**9:09d}")
    fresh.mkdir()
    fresh.chmod(0o755)
    for name, file in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode)
    for path in (fresh, *fresh.rglob("*")):
        os.chown(
            path,
            owner.user if owner.user is not None and path.is_file() else -1,
            -1 if owner.group is None else owner.group,
        )
    old = link.resolve() if link.is_symlink() else None
    step = folder / "..data_tmp"
    step.symlink_to(fresh.name)
    step.rename(link)
    tops = {Path(name).parts[0] for name in files}
    for top in tops:
        if not (folder / top).is_symlink():
            (folder / top).symlink_to(Path("..data") / top)
    for path in folder.iterdir():
        if not path.name.startswith("..") and path.name not in tops:
            path.unlink()
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
    return True


@dataclass(slots=True)
class Volumes:
    """The volumes of one pod below `folder`."""

    pod: Json
    folder: Path
    objects: Objects
    tokens: Tokens
    claims: Claims
    api: Any
    facts: Mapping[str, str]
    capacity: Mapping[str, str]
    owner: Owner
    _paths: dict[str, Path] = field(default_factory=dict)
    _mounted: list[Path] = field(default_factory=list)

    async def set_up(self) -> None:
        """Makes all of them. Raises ConfigError while something that they need is not there."""
        for volume in self.pod["spec"].get("volumes") or []:
            if volume["name"] not in self._paths:
                self._paths[volume["name"]] = await self._make(volume)

    async def refresh(self) -> None:
        """Brings what comes from the API up to date; what cannot be had now stays as it is."""
        for volume in self.pod["spec"].get("volumes") or []:
            if any(volume.get(kind) is not None for kind in FROM_API) and volume["name"] in self._paths:
                try:
                    files = await self._files(volume)
                except ConfigError:
                    continue
                write_atomically(self._paths[volume["name"]], files, self._file_owner(volume))

    def source(self, name: str, sub_path: str) -> Path:
        """What a container has mounted: the volume, or something in it."""
        path = self._paths[name]
        if not sub_path:
            return path
        inner = path / sub_path
        if ".." in Path(sub_path).parts:
            raise ConfigError(f"subPath {sub_path!r} leaves the volume")
        if not inner.exists():
            inner.mkdir(parents=True)
            self._own(inner)
        return inner.resolve()

    def tear_down(self) -> None:
        for path in self._mounted:
            subprocess.run(["umount", "--lazy", str(path)], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _make(self, volume: Json) -> Path:
        path = self.folder / volume["name"]
        if (claim := volume.get("persistentVolumeClaim")) is not None:
            return await self._claim(claim["claimName"])
        if volume.get("ephemeral") is not None:
            return await self._claim(f"{self.pod['metadata']['name']}-{volume['name']}")
        if (empty := volume.get("emptyDir")) is not None:
            path.mkdir(parents=True, exist_ok=True)
            if empty.get("medium") == "Memory":
                limit = f",size={int(quantity(empty['sizeLimit']))}" if empty.get("sizeLimit") else ""
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=777{limit}", "tmpfs", str(path)], check=True)
                self._mounted.append(path)
            path.chmod(0o777)
            self._own(path)
            return path
        if any(volume.get(kind) is not None for kind in FROM_API):
            files = await self._files(volume)
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)
            write_atomically(path, files, self._file_owner(volume))
            return path
        kinds = ", ".join(sorted(set(volume) - {"name"})) or "nothing"
        raise ConfigError(f'volume "{volume["name"]}" is of a kind that this node has not: {kinds}')

    def _own(self, path: Path) -> None:
        if self.owner.group is not None:
            os.chown(path, -1, self.owner.group)
            path.chmod(path.stat().st_mode | 0o070 | stat.S_ISGID)

    def _file_owner(self, volume: Json) -> Owner:
        """A token's file belongs to the pod's user; other files stay root's, and are the group's to read."""
        projected = volume.get("projected")
        token = any(source.get("serviceAccountToken") for source in (projected or {}).get("sources") or [])
        return self.owner if token else Owner(self.owner.group)

    async def _claim(self, name: str) -> Path:
        namespace = self.pod["metadata"]["namespace"]
        claim = await self.api.get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
        if (claim.get("status") or {}).get("phase") != "Bound":
            raise ConfigError(f'persistentvolumeclaim "{name}" is not bound')
        volume = await self.api.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        path = self.claims.folder_of(volume)
        self._own(path)
        return path

    async def _files(self, volume: Json) -> dict[str, File]:
        if (projected := volume.get("projected")) is not None:
            mode = projected.get("defaultMode", 0o644)
            files: dict[str, File] = {}
            for source in projected.get("sources") or []:
                for kind, section in source.items():
                    files |= await self._source(kind, section, mode)
        else:
            kind = next(kind for kind in FROM_API if volume.get(kind) is not None)
            files = await self._source(kind, volume[kind], volume[kind].get("defaultMode", 0o644))
        if self.owner.group is None:
            return files
        return {name: File(file.content, file.mode | (file.mode & 0o400) >> 3) for name, file in files.items()}

    async def _source(self, kind: str, section: Json, mode: int) -> dict[str, File]:
        match kind:
            case "configMap" | "secret":
                return await self._object(kind, section, mode)
            case "downwardAPI":
                files = {}
                for item in section.get("items") or []:
                    if reference := item.get("fieldRef"):
                        text = field_of(self.pod, reference["fieldPath"], self.facts)
                    else:
                        text = resource_of(self.pod, item["resourceFieldRef"], {}, self.capacity)
                    files[item["path"]] = File(text.encode(), item.get("mode", mode))
                return files
            case "serviceAccountToken":
                token = await self.tokens.token(section.get("audience") or "", section.get("expirationSeconds") or 3600)
                private = self.owner.group is not None or self.owner.user is not None
                return {section["path"]: File(token, 0o600 if private else mode)}
        raise ConfigError(f"projected volumes of {kind} are not of this node")

    async def _object(self, kind: str, section: Json, mode: int) -> dict[str, File]:
        name = section.get("secretName") or section.get("name") or ""
        plural = {"configMap": "configmaps", "secret": "secrets"}[kind]
        optional = bool(section.get("optional"))
        found = await self.objects.find(plural, self.pod["metadata"]["namespace"], name)
        if found is None:
            if optional:
                return {}
            raise ConfigError(f'{kind.lower()} "{name}" not found')
        data = data_of(plural, found)
        if not section.get("items"):
            return {key: File(content, mode) for key, content in data.items()}
        files = {}
        for item in section["items"]:
            if item["key"] in data:
                files[item["path"]] = File(data[item["key"]], item.get("mode", mode))
            elif not optional:
                raise ConfigError(f"references non-existent {kind} key: {item['key']}")
        return files
