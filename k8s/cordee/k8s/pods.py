"""From an agent that is to be started to its pod. Pure: what is asked for in, a manifest out, or a refusal.

The pod satisfies the Pod Security Standard `restricted` before anything is asked of it, and whatever a job asks is
looked at when it is all put together (`pod_guard`): what a pod must not have is refused in the end result, by whichever
of a job's fields it came in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError

from cordee.coordinator.config import Config, Kubernetes
from cordee.coordinator.errors import InvalidError
from cordee.coordinator.places import checkpoint_root
from cordee.coordinator.service.launchers.base import AgentSpec
from cordee.coordinator.spec import JobSpec
from cordee.coordinator.spec_pod import PodSpec
from cordee.coordinator.spec_problems import describe
from cordee.k8s.api import Json
from cordee.k8s.identity import audience_of
from cordee.k8s.merging import merge
from cordee.k8s.names import CONTAINER, HOME, IDENTITY, IDENTITY_PATH, STORAGE_PATH, WORKDIR, labels
from cordee.k8s.owners import Owner
from cordee.k8s.pod_guard import guard, secrets_of

__all__ = ["check_defaults", "combine", "has_storage", "pod_environment", "pod_manifest"]

COMMAND: Final = ("python", "-P", "-m", "cordee.worker.agent")
_USER: Final = 65532
_GRACE_SECONDS: Final = 30
_TOKEN_SECONDS: Final = 3600
_LOST_SECONDS: Final = 30
"""How long a pod stays bound to a node that does not answer. Kubernetes' own 5 minutes are for what none replaces."""

_RESTRICTED: Final[Json] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def pod_environment(config: Config, job: str, spec: JobSpec) -> dict[str, str]:
    """What an agent is told that depends on its being a pod: see `Launcher.environment`."""
    settings = config.kubernetes
    grace = _grace_seconds(combine(_defaults(settings), spec.pod))
    told = {
        "CORDEE_WORKDIR": WORKDIR,
        "CORDEE_TOKEN_FILE": f"{IDENTITY_PATH}/token",
        "CORDEE_GRACE_SECONDS": f"{max(grace - 10.0, grace / 2.0):g}",  # then the last lines of its log go out
        "HOME": HOME,
    }
    if config.tls is not None:
        told["CORDEE_TLS"] = "1"
    if settings.authority is not None:
        told["CORDEE_CA_FILE"] = f"{IDENTITY_PATH}/ca.crt"
    if settings.client_certificate is not None:
        told |= {"CORDEE_CERT_FILE": f"{IDENTITY_PATH}/tls.crt", "CORDEE_KEY_FILE": f"{IDENTITY_PATH}/tls.key"}
    storage = spec.checkpoint.storage or settings.storage.url
    if storage is not None:
        told["CORDEE_CHECKPOINT_STORAGE"] = checkpoint_root(storage, job, "")
    elif settings.storage.claim is not None:
        told["CORDEE_CHECKPOINT_STORAGE"] = f"{STORAGE_PATH}/{job}"
    else:  # a pod's folder goes with the pod: who comes next would find nothing
        told |= {"CORDEE_CHECKPOINT_SECONDS": "0", "CORDEE_CHECKPOINT_STEPS": "0", "CORDEE_CHECKPOINT_STORAGE": ""}
    return told


def has_storage(config: Config, spec: JobSpec) -> bool:
    """Whether a job's checkpoints have a place that outlives its pods."""
    storage = config.kubernetes.storage
    return spec.checkpoint.storage is not None or storage.url is not None or storage.claim is not None


def pod_manifest(
    agent: AgentSpec, config: Config, namespace: str, *, owner: Owner | None = None, avoid: Sequence[str] = ()
) -> Json:
    """The pod of an agent. Raises InvalidError, with a sentence, for what may not be asked for.

    `avoid` are nodes that this job's pods had better not go to again.
    """
    settings = config.kubernetes
    spec = agent.job_spec or JobSpec(script="none")
    if config.advertise.rest is not None:  # its logs and results travel there: nobody else sees a pod's own disk
        uploads = f"{config.advertise.rest.rstrip('/')}/v1/workers/{agent.worker}"
        agent = replace(agent, environment={**agent.environment, "CORDEE_UPLOADS": uploads})
    defaults = _defaults(settings)
    wish = combine(defaults, spec.pod)
    pod = _base(agent, spec, wish, settings, namespace, owner)
    _ask(pod["spec"], wish)
    if avoid:
        _avoid(pod["spec"], avoid)
    pod["metadata"]["annotations"] = {**wish.annotations}
    pod["metadata"]["labels"] = {**wish.labels, **pod["metadata"]["labels"]}
    ours = pod
    try:
        pod = merge(merge(pod, defaults.template), spec.pod.template)
        for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())):
            container["securityContext"] = merge(_RESTRICTED, container.get("securityContext") or {})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidError(f"spec.pod.template makes no pod: {error}") from None
    guard(pod, ours, settings, own_account=wish.service_account_name, given=_given(defaults))
    return _without_empty(pod)


def check_defaults(settings: Kubernetes) -> None:
    """Refuse a coordinator's configuration whose defaults for pods are none."""
    try:
        _defaults(settings)
    except ValidationError as error:
        file = "the coordinator's configuration file"
        problems = [describe(detail, PodSpec, ("kubernetes", "pod"), file=file) for detail in error.errors()]
        raise InvalidError("; ".join(map(str, problems)), hint=f"see {file}") from None


def combine(defaults: PodSpec, wish: PodSpec) -> PodSpec:
    """A job's wishes over the coordinator's defaults: a value replaces, mappings are merged, lists are joined. Not the
    templates: those are patches, and what one takes away the other cannot tell."""
    fields: dict[str, Any] = {}
    for name in PodSpec.model_fields:
        low, high = getattr(defaults, name), getattr(wish, name)
        if name == "resources":
            given = {key: value for key, value in high if value is not None}
            fields[name] = low.model_copy(update=given)
        elif name in ("affinity", "template"):
            fields[name] = high or low
        elif isinstance(high, dict):
            fields[name] = {**low, **high}
        elif isinstance(high, tuple):
            names = {item.get("name") for item in high if isinstance(item, Mapping)} - {None}
            kept = (item for item in low if item not in high and not (name == "volumes" and item.get("name") in names))
            fields[name] = (*kept, *high)
        else:
            fields[name] = low if high is None else high
    return PodSpec.model_construct(**fields)


def _defaults(settings: Kubernetes) -> PodSpec:
    return PodSpec.model_validate(settings.pod, by_alias=True, by_name=False)


def _given(defaults: PodSpec) -> set[str]:
    """The Secrets that the coordinator gives to every job."""
    template: Json = {**defaults.template}
    pull = (template.get("spec") or {}).get("imagePullSecrets") or ()
    return {
        *secrets_of((defaults.env_from, defaults.volumes, template)),
        *(entry.name for entry in defaults.secret_env.values()),
        *defaults.image_pull_secrets,
        *(str(item["name"]) for item in pull if isinstance(item, Mapping) and "name" in item),
    }


def _grace_seconds(wish: PodSpec) -> int:
    return wish.termination_grace_period_seconds or _GRACE_SECONDS


def _base(
    agent: AgentSpec, spec: JobSpec, wish: PodSpec, settings: Kubernetes, namespace: str, owner: Owner | None
) -> Json:
    image = wish.image or settings.image
    if image is None:
        raise InvalidError(
            "spec.pod.image is missing, and the coordinator's configuration names no image (kubernetes.image)",
            hint="give an image with Cordee in it",
        )
    metadata: Json = {
        "name": agent.worker,
        "namespace": namespace,
        "labels": labels(settings.instance, agent.job, agent.worker),
    }
    if owner is not None:
        metadata["ownerReferences"] = [owner.reference()]
    volumes = _volumes(agent.job, wish, settings)
    container: Json = {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": wish.image_pull_policy or settings.image_pull_policy,
        "command": list(COMMAND),
        "workingDir": WORKDIR,
        "env": _environment(agent, wish),
        "envFrom": _environment_sources(wish, settings),
        "resources": _resources(spec, wish),
        "securityContext": {**_RESTRICTED, "readOnlyRootFilesystem": True},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "cordee-work", "mountPath": WORKDIR},
            {"name": "cordee-home", "mountPath": HOME},
            {"name": "cordee-tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "cordee-shm", "mountPath": "/dev/shm"},  # noqa: S108
            {"name": IDENTITY, "mountPath": IDENTITY_PATH, "readOnly": True},
            *([{"name": "cordee-storage", "mountPath": STORAGE_PATH}] if settings.storage.claim else []),
            *wish.volume_mounts,
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "serviceAccountName": wish.service_account_name or settings.service_account,
            "terminationGracePeriodSeconds": _grace_seconds(wish),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "fsGroup": _USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "imagePullSecrets": [
                {"name": name} for name in dict.fromkeys((*settings.image_pull_secrets, *wish.image_pull_secrets))
            ],
            "containers": [container],
            "volumes": [*volumes, *wish.volumes],
        },
    }


def _volumes(job: str, wish: PodSpec, settings: Kubernetes) -> list[Json]:
    shm: Json = {"medium": "Memory"}
    if wish.resources.shared_memory is not None:
        shm["sizeLimit"] = wish.resources.shared_memory
    sources: list[Json] = [
        {
            "serviceAccountToken": {
                "audience": audience_of(job),
                "expirationSeconds": _TOKEN_SECONDS,
                "path": "token",
            }
        }
    ]
    if settings.authority is not None:
        entry = {"key": settings.authority.key, "path": "ca.crt"}
        sources.append({"secret": {"name": settings.authority.name, "items": [entry]}})
    if settings.client_certificate is not None:
        items = [{"key": key, "path": key} for key in ("tls.crt", "tls.key")]
        sources.append({"secret": {"name": settings.client_certificate, "items": items}})
    volumes: list[Json] = [
        {"name": "cordee-work", "emptyDir": {}},
        {"name": "cordee-home", "emptyDir": {}},
        {"name": "cordee-tmp", "emptyDir": {}},
        {"name": "cordee-shm", "emptyDir": shm},
        {"name": IDENTITY, "projected": {"defaultMode": 0o440, "sources": sources}},
    ]
    if settings.storage.claim is not None:
        volumes.append({"name": "cordee-storage", "persistentVolumeClaim": {"claimName": settings.storage.claim}})
    return volumes


def _environment(agent: AgentSpec, wish: PodSpec) -> list[Json]:
    secret = {
        name: {"name": name, "valueFrom": {"secretKeyRef": {"name": entry.name, "key": entry.key}}}
        for name, entry in wish.secret_env.items()
    }
    # Kubernetes unfolds $(NAME) in values, and $$ is how a dollar is written.
    plain = [
        {"name": name, "value": value.replace("$", "$$")}
        for name, value in agent.environment.items()
        if name not in secret and name != "CORDEE_MESH_HOST"
    ]
    address = {"name": "CORDEE_MESH_HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    return [*plain, *secret.values(), address]


def _environment_sources(wish: PodSpec, settings: Kubernetes) -> list[Any]:
    storage = [{"secretRef": {"name": settings.storage.secret}}] if settings.storage.secret else []
    return [*storage, *wish.env_from]


def _resources(spec: JobSpec, wish: PodSpec) -> Json:
    given = wish.resources
    gpu = given.gpu if given.gpu is not None else int(spec.device == "cuda")
    requests: Json = {"cpu": given.cpu or str(spec.threads)}
    limits: Json = {}
    if given.memory is not None:
        requests["memory"] = limits["memory"] = given.memory
    if given.ephemeral_storage is not None:
        requests["ephemeral-storage"] = limits["ephemeral-storage"] = given.ephemeral_storage
    if gpu:
        requests["nvidia.com/gpu"] = limits["nvidia.com/gpu"] = str(gpu)
    return {"requests": requests, "limits": limits}


def _ask(pod: Json, wish: PodSpec) -> None:
    """What a job asks of the scheduler."""
    known = [item.get("key") for item in wish.tolerations]
    lost = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    pod["tolerations"] = [
        *wish.tolerations,
        *(
            {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _LOST_SECONDS}
            for key in lost
            if key not in known
        ),
    ]
    pod["nodeSelector"] = dict(wish.node_selector)
    pod["affinity"] = dict(wish.affinity)
    pod["topologySpreadConstraints"] = list(wish.topology_spread_constraints)
    pod["priorityClassName"] = wish.priority_class_name
    pod["runtimeClassName"] = wish.runtime_class_name
    pod["schedulerName"] = wish.scheduler_name


def _avoid(pod: Json, nodes: Sequence[str]) -> None:
    """Rather not these nodes: a wish, so that a job on a small cluster still runs."""
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    affinity = pod["affinity"] = dict(pod["affinity"])
    node = affinity["nodeAffinity"] = dict(affinity.get("nodeAffinity") or {})
    wishes = node.get("preferredDuringSchedulingIgnoredDuringExecution") or []
    term = {"weight": 100, "preference": {"matchFields": fields}}
    node["preferredDuringSchedulingIgnoredDuringExecution"] = [*wishes, term]


def _without_empty(pod: Json) -> Json:
    """Without what was left open: an API server would take null for a mistake here and there."""

    def clean(thing: Json, names: Sequence[str]) -> Json:
        return {key: value for key, value in thing.items() if key not in names or value not in (None, {}, [], "")}

    optional = (
        "serviceAccountName", "imagePullSecrets", "nodeSelector", "affinity", "topologySpreadConstraints",
        "priorityClassName", "runtimeClassName", "schedulerName",
    )  # fmt: skip
    spec = clean(pod["spec"], optional)
    spec["containers"] = [clean(container, ("imagePullPolicy", "envFrom")) for container in spec["containers"]]
    return {**pod, "metadata": clean(pod["metadata"], ("annotations",)), "spec": spec}
