"""A provisioner: claims of the storage class `test` are given a volume, which is a folder, while they are there."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path
from typing import Any

from cluster.kubelet.api import Api, ApiError

__all__ = ["STORAGE_CLASS", "Storage"]

Json = dict[str, Any]
STORAGE_CLASS = "test"
PROVISIONER = "cordee.dev/test"


class Storage:
    """Serves claims as provisioners outside of Kubernetes do: it makes volumes, and deletes released ones.

    The volumes are NFS ones by name, the kind that needs no driver and no attaching, and that several nodes share.
    """

    def __init__(self, api: Api, folder: Path) -> None:
        self._api, self._folder = api, folder

    async def run(self) -> None:
        await self._api.apply(
            "/apis/storage.k8s.io/v1/storageclasses",
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": STORAGE_CLASS,
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": PROVISIONER,
            },
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(self._serve_claims())
            group.create_task(self._sweep())

    async def _serve_claims(self) -> None:
        async for kind, found in self._api.watch("/api/v1/persistentvolumeclaims"):
            if kind == "DELETED":
                continue
            for claim in found if kind == "SYNC" else [found]:
                spec = claim["spec"]
                if spec.get("storageClassName") == STORAGE_CLASS and not spec.get("volumeName"):
                    with contextlib.suppress(ApiError):
                        await self._api.create("/api/v1/persistentvolumes", _volume(claim))

    async def _sweep(self) -> None:
        async for kind, found in self._api.watch("/api/v1/persistentvolumes"):
            if kind == "DELETED":
                continue
            for volume in found if kind == "SYNC" else [found]:
                ours = volume["spec"].get("storageClassName") == STORAGE_CLASS
                if ours and (volume.get("status") or {}).get("phase") == "Released":
                    with contextlib.suppress(ApiError):
                        await self._api.delete(f"/api/v1/persistentvolumes/{volume['metadata']['name']}")
                    shutil.rmtree(self._folder / volume["spec"]["nfs"]["path"].strip("/"), ignore_errors=True)


def _volume(claim: Json) -> Json:
    meta, spec = claim["metadata"], claim["spec"]
    name = f"pvc-{meta['uid']}"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "storageClassName": STORAGE_CLASS,
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
            "nfs": {"server": "storage.test", "path": f"/{name}"},
        },
    }
