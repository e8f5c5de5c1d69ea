"""The source of an object's job, where that lies in the cluster."""

import asyncio

from cordee.coordinator.service.controller import Controller
from cordee.k8s.api import Json
from cordee.k8s.errors import ApiError
from cordee.k8s.facts import pack_config_map, source_of
from cordee.k8s.objects import Objects

__all__ = ["SourceMissingError", "bundle_of"]


class SourceMissingError(Exception):
    """The source may come yet."""


async def bundle_of(data: Json, objects: Objects, controller: Controller) -> str | None:
    """The bundle of an object whose source is a ConfigMap; None: it lies elsewhere."""
    wanted = source_of(data)
    if not wanted:
        return None
    try:
        found = await objects.config_map(wanted)
    except ApiError as error:
        if error.status != 404:
            raise
        raise SourceMissingError(
            f"there is no ConfigMap {wanted} in the namespace {objects.namespace}, where spec.sourceFrom "
            "says that the source is; it is looked for again"
        ) from None
    bundle = await asyncio.to_thread(pack_config_map, found)
    await controller.keep_bundle(bundle)
    return bundle.sha256
