"""From a container in a pod's spec to what `sandbox.py` is told: the image, the user, the mounts, the environment."""

from __future__ import annotations

import re
from typing import Any

from cluster.kubelet.environment import ConfigError, command_of, environment_of, expand
from cluster.kubelet.home import Home
from cluster.kubelet.host import Host
from cluster.kubelet.images import Image
from cluster.kubelet.runtime import User, user_of
from cluster.kubelet.volumes import Owner, Volumes

__all__ = ["PullError", "facts_of", "find_image", "owner_of", "sandbox_spec"]

Json = dict[str, Any]


_REFERENCE = re.compile(r"[a-z0-9][a-z0-9._:/-]*?(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?")


class PullError(Exception):
    """There is no such image, or its registry does not answer. `reason` is Kubernetes' word for it."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def find_image(host: Host, container: Json) -> Image:
    """By its full name, or without the registry that is meant where none is named; digests are not looked at."""
    name: str = container["image"]
    if not _REFERENCE.fullmatch(name):
        raise PullError("InvalidImageName", f'couldn\'t parse image name "{name}": invalid reference format')
    plain = name.split("@", 1)[0].removeprefix("docker.io/").removeprefix("library/")
    image = host.images.get(plain)
    if image is None or host.unpullable & {name, plain}:
        if container.get("imagePullPolicy") == "Never":
            raise PullError("ErrImageNeverPull", f'Container image "{name}" is not present with pull policy of Never')
        why = f'failed to resolve reference "{name}": {name}: not found'
        raise PullError("ErrImagePull", f'failed to pull and unpack image "{name}": {why}')
    return image


def owner_of(pod: Json) -> Owner:
    """Whose the files of the pod's volumes are: the group's, and the user's where all containers have the same."""
    shared = pod["spec"].get("securityContext") or {}
    users = {
        (container.get("securityContext") or {}).get("runAsUser", shared.get("runAsUser"))
        for container in [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]
    }
    return Owner(shared.get("fsGroup"), users.pop() if len(users) == 1 else None)


async def sandbox_spec(pod: Json, container: Json, home: Home, volumes: Volumes, attempt: int) -> Json:
    """Everything about one start of a container. Raises ConfigError, or PullError."""
    host = home.host
    facts = facts_of(pod, host, home.address)
    image = find_image(host, container)
    user = user_of(pod, container, image_user=image.user, image_group=image.group)
    context = {**(pod["spec"].get("securityContext") or {}), **(container.get("securityContext") or {})}
    if context.get("runAsNonRoot") and user.uid == 0:
        raise ConfigError("container has runAsNonRoot and image will run as root")
    env = await environment_of(
        pod,
        container,
        image,
        objects=host.objects,
        facts=facts,
        capacity=host.capacity,
        services=host.services.all(),
    )
    env.setdefault("HOME", _home_of(user, image))
    env.setdefault("HOSTNAME", home.hostname)
    if not (argv := command_of(container, image, env)):
        raise ConfigError("no command specified")
    name = container["name"]
    mounts: list[Json] = [
        {"target": target, "lower": list(layers)}
        if len(layers) > 1
        else {"target": target, "source": layers[0], "readonly": True}
        for target, layers in sorted(image.folders.items())
    ]
    mounts += [
        {"target": f"/etc/{file}", "source": str(home.folder / file), "readonly": False}
        for file in ("hosts", "hostname", "resolv.conf")
    ]
    message = home.message(name)
    message.write_bytes(b"")
    message.chmod(0o666)
    target = container.get("terminationMessagePath") or "/dev/termination-log"
    mounts.append({"target": target, "source": str(message), "readonly": False})
    for mount in sorted(container.get("volumeMounts") or [], key=lambda m: m["mountPath"]):
        path = mount.get("subPath") or ""
        if template := mount.get("subPathExpr"):
            path = expand(template, env)
        source = volumes.source(mount["name"], path)
        fixed = bool(mount.get("readOnly")) or _is_api_volume(pod, mount["name"])
        mounts.append({"target": mount["mountPath"], "source": str(source), "readonly": fixed})
    log = home.log(name, attempt)
    log.parent.mkdir(parents=True, exist_ok=True)
    return {
        "root": str(home.folder / "roots" / f"{name}.{attempt}"),
        "lower": host.layers.lower,
        "mounts": mounts,
        "devices": list(host.devices) if _wants_devices(container) else [],
        "readonly": bool(context.get("readOnlyRootFilesystem")),
        "network": home.network.path if home.network else None,
        "hostname": home.hostname,
        "argv": argv,
        "env": env,
        "workdir": container.get("workingDir") or image.workdir,
        "log": str(log),
        **user.spec,
    }


def _home_of(user: User, image: Image) -> str:
    if user.uid == 0:
        return "/root"
    return image.workdir if user.uid == image.user else "/"


def _is_api_volume(pod: Json, name: str) -> bool:
    volume = next((v for v in pod["spec"].get("volumes") or [] if v["name"] == name), {})
    return any(volume.get(kind) is not None for kind in ("configMap", "secret", "projected", "downwardAPI"))


def _wants_devices(container: Json) -> bool:
    limits = (container.get("resources") or {}).get("limits") or {}
    return bool(int(limits.get("nvidia.com/gpu", 0)))


def facts_of(pod: Json, host: Host, address: str) -> dict[str, str]:
    """What the downward API knows before the pod's object does."""
    return {
        "status.podIP": address,
        "status.podIPs": address,
        "status.hostIP": host.address,
        "status.hostIPs": host.address,
        "spec.nodeName": host.name,
        "metadata.uid": pod["metadata"]["uid"],
    }
