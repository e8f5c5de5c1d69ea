"""What a job's pod must not have, whatever its author wrote: ways out of the pod, others' secrets, another identity.

The finished manifest is looked at, so it does not matter whether something came by a field of `spec.pod` or by its
template. This is no substitute for the namespace's own admission (Pod Security, quotas); it is what holds where a
cluster has none, and what gives a sentence at submission instead of a pod that is refused later.
"""

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from cordee.coordinator.config import Kubernetes
from cordee.coordinator.errors import InvalidError
from cordee.k8s.api import Json
from cordee.k8s.names import CONTAINER, IDENTITY, IDENTITY_PATH, OURS

__all__ = ["guard", "secrets_of"]

_VOLUMES: Final = frozenset(
    {
        "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected",
        "secret",
    }
)  # fmt: skip
"""The kinds that the Pod Security Standard `restricted` knows."""
_LISTS: Final = ("containers", "initContainers", "ephemeralContainers")
_SECRETS: Final = frozenset({"secretRef", "secretKeyRef", "nodePublishSecretRef", "secret"})
_CONFIG_MAPS: Final = frozenset({"configMapRef", "configMapKeyRef", "configMap"})
_APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"
"""Where the profile was said before Kubernetes 1.30; what is here still counts."""
_SELINUX: Final = frozenset({None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
_HELM: Final = "sh.helm.release."
_HOST: Final = ("hostNetwork", "hostPID", "hostIPC")


def _refuse(what: str, hint: str = "") -> InvalidError:
    return InvalidError(f"spec.pod {what}", hint=hint)


def guard(pod: Json, ours: Json, settings: Kubernetes, *, own_account: str | None, given: Collection[str] = ()) -> None:
    """Refuse a pod that must not be. `ours` is it before the template's patch; `own_account` the service account that
    the job itself asks for; `given` the Secrets that the coordinator's defaults name, which are every job's."""
    try:
        _check_metadata(pod, ours)
        spec = pod["spec"]
        _check_host(spec)
        _check_account(spec, settings, own_account)
        _check_containers(spec)
        _check_identity(spec, ours["spec"])
        _check_volumes(spec, own_account)
        _check_references(spec, settings, given)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _refuse(f"makes no pod: {error!r} where something else must be") from None


def _check_metadata(pod: Json, ours: Json) -> None:
    for field in ("apiVersion", "kind"):
        if pod.get(field) != ours[field]:
            raise _refuse(f"changes the pod's {field}")
    metadata, own = pod["metadata"], ours["metadata"]
    for field in ("name", "namespace", "ownerReferences", "finalizers", "generateName"):
        if metadata.get(field) != own.get(field):
            raise _refuse(f"changes the pod's metadata.{field}, by which Cordee knows it")
    for key, value in metadata["labels"].items():
        prefix = key.rpartition("/")[0]
        mine = prefix in ("cordee.dev", "app.kubernetes.io") or prefix.endswith(".cordee.dev")
        if mine and own["labels"].get(key) != value:
            raise _refuse(f"sets the label {key}, by which Cordee knows its pods")
    for key in own["labels"]:
        if key not in metadata["labels"]:
            raise _refuse(f"takes away the label {key}, by which Cordee knows its pods")
    for key, value in (metadata.get("annotations") or {}).items():
        if key.startswith(_APPARMOR) and value == "unconfined":
            raise _refuse(f"takes the AppArmor profile away (annotation {key})")
    for field in set(pod) - set(ours):
        raise _refuse(f"has a template with a field {field}; a pod has metadata and spec")


def _check_host(spec: Json) -> None:
    for field in _HOST:
        if spec.get(field):
            raise _refuse(f"sets {field}, which would lead out of the pod")
    if spec.get("restartPolicy") != "Never":
        raise _refuse("changes restartPolicy; it is Cordee that starts a worker again")
    if spec.get("nodeName"):
        raise _refuse("sets nodeName, which passes over the scheduler", "use nodeSelector, or affinity")
    if str(spec.get("priorityClassName") or "").startswith("system-"):
        raise _refuse(f"asks for the priority class {spec['priorityClassName']}, which is the cluster's own")
    _check_security(spec.get("securityContext") or {}, "the pod")
    if (spec.get("securityContext") or {}).get("sysctls"):
        raise _refuse("sets sysctls, which reach beyond the pod")
    if (spec.get("securityContext") or {}).get("runAsNonRoot") is not True:
        raise _refuse("takes away runAsNonRoot; pods run as another user than root")


def _check_account(spec: Json, settings: Kubernetes, own_account: str | None) -> None:
    allowed = {settings.service_account, *settings.allowed_service_accounts}
    for field in ("serviceAccountName", "serviceAccount"):
        name = spec.get(field)
        if name and name not in allowed:
            others = ", ".join(settings.allowed_service_accounts)
            which = f"these beside its own: {others}" if others else "its own alone"
            raise _refuse(
                f"asks for the service account {name}, which jobs may not have",
                f"the coordinator's configuration allows {which}",
            )
    if spec.get("automountServiceAccountToken") is not False and own_account is None:
        raise _refuse("mounts a token for the API server, which workers have no use for")


def _check_containers(spec: Json) -> None:
    names = [container["name"] for container in spec["containers"]]
    if names.count(CONTAINER) != 1:
        raise _refuse(
            f"has {names.count(CONTAINER)} containers named {CONTAINER}; there must be one, which is Cordee's"
        )
    if spec.get("ephemeralContainers"):
        raise _refuse("has ephemeral containers, which are for pods that run")
    for field in _LISTS:
        for container in spec.get(field) or ():
            name = container["name"]
            _check_security(container.get("securityContext") or {}, f"the container {name}")
            for port in container.get("ports") or ():
                if port.get("hostPort"):
                    raise _refuse(f"gives the container {name} a port of the host")


def _check_security(context: Mapping[str, Any], where: str) -> None:
    wrong = {
        "privileged": "is privileged",
        "allowPrivilegeEscalation": "may gain privileges",
    }
    for field, words in wrong.items():
        if context.get(field):
            raise _refuse(f"says that {where} {words}; Cordee's pods have no privileges")
    added = (context.get("capabilities") or {}).get("add")
    if added:
        raise _refuse(f"adds capabilities to {where}: {', '.join(map(str, added))}; Cordee's pods have none")
    if context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
        raise _refuse(f"says that {where} runs as root; Cordee's pods run as another user")
    if (context.get("seccompProfile") or {}).get("type") == "Unconfined":
        raise _refuse(f"takes the seccomp profile from {where}")
    if (context.get("appArmorProfile") or {}).get("type") == "Unconfined":
        raise _refuse(f"takes the AppArmor profile from {where}")
    linux = context.get("seLinuxOptions") or {}
    if linux.get("user") or linux.get("role") or linux.get("type") not in _SELINUX:
        raise _refuse(f"chooses another SELinux context for {where}")
    if context.get("procMount") not in (None, "Default"):
        raise _refuse(f"unmasks /proc in {where}")
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        raise _refuse(f"says that {where} is a process of the host")


def _check_identity(spec: Json, ours: Json) -> None:
    """The pod's identity, and what the agent is told, are as they were made."""
    mine, made = _worker(spec), _worker(ours)
    for field in ("command", "args", "workingDir"):
        if mine.get(field) != made.get(field):
            raise _refuse(f"changes the worker's {field}; what runs is the job's script")
    if mine.get("lifecycle") or mine.get("restartPolicy"):
        raise _refuse("gives the worker's container a life cycle of its own")
    told = {item["name"]: item for item in made["env"] if item["name"].startswith("CORDEE_")}
    for container in spec["containers"]:
        for item in container.get("env") or ():
            if item["name"].startswith("CORDEE_") and (container is not mine or told.get(item["name"]) != item):
                raise _refuse(f"sets the variable {item['name']}; names that begin with CORDEE_ are Cordee's own")
    found = [item["name"] for item in mine.get("env") or () if item["name"].startswith("CORDEE_")]
    if sorted(found) != sorted(told):
        raise _refuse("takes away or repeats variables that begin with CORDEE_, which are Cordee's own")
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    if volumes.get(IDENTITY) != next(volume for volume in ours["volumes"] if volume["name"] == IDENTITY):
        raise _refuse(f"changes the volume {IDENTITY}, which is what a worker proves itself by")
    identity = {"name": IDENTITY, "mountPath": IDENTITY_PATH, "readOnly": True}
    for field in _LISTS:
        for container in spec.get(field) or ():
            for mount in container.get("volumeMounts") or ():
                if container is mine and mount == identity:
                    continue
                path = str(mount["mountPath"]).rstrip("/") + "/"
                if mount["name"] == IDENTITY:
                    raise _refuse(f"mounts the volume {IDENTITY} elsewhere, which is what a worker proves itself by")
                if container is mine and (path.startswith(IDENTITY_PATH + "/") or f"{IDENTITY_PATH}/".startswith(path)):
                    raise _refuse(f"mounts something at {mount['mountPath']}, over {IDENTITY_PATH}")
    if mine.get("volumeMounts", []).count(identity) != 1:
        raise _refuse(f"takes away the mount at {IDENTITY_PATH}, which is what a worker proves itself by")


def _worker(spec: Json) -> Json:
    container: Json = next(c for c in spec["containers"] if c["name"] == CONTAINER)
    return container


def _check_volumes(spec: Json, own_account: str | None) -> None:
    seen: set[str] = set()
    for volume in spec["volumes"]:
        name = volume["name"]
        if name in seen:
            raise _refuse(f"has two volumes named {name}; names that begin with {OURS} are Cordee's own")
        seen.add(name)
        for kind in set(volume) - {"name"}:
            if kind == "hostPath":
                raise _refuse(f"has the volume {name} on the host (hostPath), which would lead out of the pod")
            if kind not in _VOLUMES:
                raise _refuse(
                    f"has the volume {name} of kind {kind}, which pods may not have",
                    f"these they may have: {', '.join(sorted(_VOLUMES))}",
                )
        for source in (volume.get("projected") or {}).get("sources") or ():
            if "serviceAccountToken" in source and name != IDENTITY and own_account is None:
                raise _refuse(f"has a service account's token in the volume {name}, which workers have no use for")


def _check_references(spec: Json, settings: Kubernetes, given: Collection[str]) -> None:
    """The platform's own Secrets, ConfigMaps and volumes are nobody's to mount or read, but in what we make; and of the
    other Secrets only those that jobs are allowed."""
    protected = set(settings.protected_secrets)
    user_spec = {
        **spec,
        "volumes": [volume for volume in spec["volumes"] if volume["name"] != IDENTITY],
        "imagePullSecrets": [
            item for item in spec.get("imagePullSecrets") or () if item["name"] not in settings.image_pull_secrets
        ],
    }
    secrets = [*secrets_of(user_spec), *(item["name"] for item in user_spec["imagePullSecrets"])]
    if settings.storage.secret in secrets:  # the credentials of storage, which we give to every worker, once
        secrets.remove(settings.storage.secret)
    for name in (*secrets, *_named(user_spec, _CONFIG_MAPS)):
        # Helm keeps a release's whole manifest there, with every Secret in it: the administrator's token among them.
        if name in protected or name.startswith(_HELM):
            raise _refuse(f"reads {name}, which is the platform's own")
    for name in secrets:
        if name not in given and not any(fnmatchcase(name, allowed) for allowed in settings.allowed_secrets):
            others = ", ".join(settings.allowed_secrets) or "none"
            raise _refuse(
                f"names the Secret {name}, which jobs may not have",
                f"the coordinator's configuration allows these (kubernetes.allowedSecrets): {others}",
            )
    for claim in _claims(user_spec["volumes"]):
        if claim in settings.protected_claims:
            raise _refuse(f"mounts or copies the volume claim {claim}, which is the platform's own")


def _claims(thing: object) -> Iterator[str]:
    """The names of all claims that volumes mount, or begin as a copy of."""
    if isinstance(thing, Mapping):
        for key, value in thing.items():
            if key == "claimName":
                yield str(value)
            elif key in ("dataSource", "dataSourceRef") and isinstance(value, Mapping):
                yield str(value.get("name"))
            yield from _claims(value)
    elif isinstance(thing, list | tuple):
        for item in thing:
            yield from _claims(item)


def secrets_of(thing: object) -> Iterator[str]:
    """The names of all Secrets that a part of a pod refers to; not those that images are pulled with."""
    yield from _named(thing, _SECRETS, "secretName")


def _named(thing: object, kinds: Collection[str], plain: str = "") -> Iterator[str]:
    """The names in all references of these kinds, and in the fields called `plain`."""
    if isinstance(thing, Mapping):
        for key, value in thing.items():
            if plain and key == plain:
                yield str(value)
            elif key in kinds and isinstance(value, Mapping) and "name" in value:
                yield str(value["name"])
            if not isinstance(value, str):  # most of a pod is words
                yield from _named(value, kinds, plain)
    elif isinstance(thing, list | tuple):
        for item in thing:
            yield from _named(item, kinds, plain)
