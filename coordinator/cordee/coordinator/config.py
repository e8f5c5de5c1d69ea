"""The coordinator's own configuration file: what an installation decides, checked before a port is opened.

`cordee coordinator --config FILE` reads it; the Helm chart writes it. YAML with a versioned schema, as strict as the
job file (`spec`): nothing unknown, nothing converted silently, every mistake at once in a sentence that names its
field. It holds no secret itself, only the paths of files that do, so that it can be a ConfigMap. Without a file
everything has the default that suits a laptop: the loopback, one token in the state folder, agents as processes.
"""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError

from cordee.coordinator.spec_fields import SpecModel, wrong
from cordee.coordinator.spec_problems import Problem, SpecError, brief, describe, given
from cordee.coordinator.spec_yaml import line_of, load_yaml, read_text

__all__ = [
    "CONFIG_KIND",
    "Advertise",
    "Auth",
    "Config",
    "Database",
    "Kubernetes",
    "LeaderElection",
    "Listen",
    "NamedToken",
    "Oidc",
    "Retention",
    "Role",
    "SecretKey",
    "Storage",
    "Tls",
    "TokenReview",
    "Uploads",
    "config_schema",
    "load_config",
]

CONFIG_VERSION: Final = "cordee.dev/v1alpha1"
CONFIG_KIND: Final = "CoordinatorConfig"


def _absolute(text: str) -> str:
    if not Path(text).is_absolute():
        raise wrong(f"is {brief(text)}; give an absolute path")
    return text


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Listen(SpecModel):
    """Where the coordinator listens."""

    host: str = Field(default="127.0.0.1", description="the address to listen on")
    rest_port: Port = Field(default=8470, description="REST, for people and the CLI; 0: any free one")
    grpc_port: Port = Field(default=8471, description="gRPC, for workers; 0: any free one")
    metrics_port: Port | None = Field(
        default=None, description="a port of its own for /metrics, /healthz and /readyz (default: with REST only)"
    )
    insecure: bool = Field(
        default=False,
        description="listen beyond the loopback without TLS all the same: something in front of it encrypts",
    )


class Advertise(SpecModel):
    """What others are told to connect to, where that differs from where the coordinator listens (a Service's name)."""

    rest: str | None = Field(default=None, description="the REST URL, for agents and in messages for people")
    grpc: str | None = Field(default=None, description="host:port of gRPC, for workers")


class Tls(SpecModel):
    """TLS on REST and gRPC. The files are read again when they change, so a renewed certificate needs no restart."""

    certificate: AbsolutePath = Field(description="PEM file: the certificate and what it was signed by")
    key: AbsolutePath = Field(description="PEM file: its private key")
    authority: AbsolutePath | None = Field(
        default=None, description="PEM file: what clients verify us by (default: their system's authorities)"
    )
    client_authority: AbsolutePath | None = Field(
        default=None, description="PEM file: mutual TLS; nobody comes in without a certificate that it has signed"
    )


Role = Literal["viewer", "editor", "admin"]
"""What somebody may do: look; submit, scale and cancel as well; everything (`service/people.py` has the table)."""


class NamedToken(SpecModel):
    """A static token of one person or program."""

    name: str = Field(min_length=1, description="who has it: what the history and the log call them")
    file: AbsolutePath = Field(description="the file that holds it (at least 16 ASCII characters)")
    role: Role = Field(default="viewer", description="look; submit, scale and cancel, too; or remove jobs as well")


class Oidc(SpecModel):
    """Bearer tokens of an OpenID Connect provider (OpenID Connect Discovery 1.0, RFC 7519, RFC 9068)."""

    issuer: str = Field(description="the issuer's URL, https; its discovery document says where its keys are")
    audience: str = Field(min_length=1, description="the audience a token must be for")
    username_claim: str = Field(default="sub", description="the claim that says who they are")
    groups_claim: str | None = Field(default=None, description="the claim that lists their groups")
    groups: tuple[str, ...] = Field(
        default=(), strict=False, description="one of these groups is needed, or of those below; none: all come in"
    )
    role: Role = Field(default="viewer", description="what whoever comes in may do, if no group gives them more")
    editor_groups: tuple[str, ...] = Field(
        default=(), strict=False, description="who is in one of these submits, scales and cancels"
    )
    admin_groups: tuple[str, ...] = Field(
        default=(), strict=False, description="who is in one of these does everything"
    )
    authority: AbsolutePath | None = Field(default=None, description="PEM file: what the issuer is verified by")


class TokenReview(SpecModel):
    """Bearer tokens that the Kubernetes API server vouches for; who may do what is asked by SubjectAccessReview
    on `trainingjobs.cordee.dev` in the coordinator's namespace."""

    audiences: tuple[str, ...] = Field(
        default=("cordee",), strict=False, min_length=1, description="what a token must be made for, one of these"
    )


class Auth(SpecModel):
    """Who comes in over REST. Several may be set: a token is good if one of them knows it. There is no mode without."""

    token_file: AbsolutePath | None = Field(
        default=None, description="the administrator's token (default: the state folder's, made on first use)"
    )
    tokens: tuple[NamedToken, ...] = Field(default=(), strict=False, description="more static tokens")
    metrics_token_file: AbsolutePath | None = Field(
        default=None, description="a token that is good for /metrics and nothing else: Prometheus'"
    )
    oidc: Oidc | None = None
    token_review: TokenReview | None = None


class SecretKey(SpecModel):
    """One entry of a Secret or ConfigMap in the jobs' namespace."""

    name: str = Field(min_length=1)
    key: str = Field(min_length=1)


class Storage(SpecModel):
    """Storage that all pods reach: for checkpoints, which are for losing everybody at once."""

    url: str | None = Field(default=None, description="s3://…, gs://… or az://…; each job has a folder of its own")
    secret: str | None = Field(default=None, description="the Secret whose entries are its credentials, as environment")
    claim: str | None = Field(
        default=None, description="a PersistentVolumeClaim (ReadWriteMany) mounted by every pod, instead of a URL"
    )


class Kubernetes(SpecModel):
    """How the launcher `kubernetes` makes pods."""

    namespace: str | None = Field(default=None, description="where pods run (default: the coordinator's own)")
    moved_from: str | None = Field(
        default=None,
        description="the name or uid of the namespace that jobs were in before, which is gone: they are taken up here",
    )
    kubeconfig: AbsolutePath | None = Field(default=None, description="outside a cluster: how to reach it")
    context: str | None = Field(default=None, description="the kubeconfig's context (default: its current one)")
    instance: str = Field(default="cordee", min_length=1, description="tells apart coordinators of one namespace")
    image: str | None = Field(default=None, description="the workers' image, where a job names none")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: tuple[str, ...] = Field(default=(), strict=False)
    service_account: str | None = Field(default=None, description="the workers' service account; it needs no rights")
    allowed_service_accounts: tuple[str, ...] = Field(
        default=(), strict=False, description="others that a job may ask for"
    )
    allowed_secrets: tuple[Annotated[str, Field(pattern=r"^[a-z0-9.*?-]+$")], ...] = Field(
        default=("*",),
        strict=False,
        description="the Secrets that a job may name, where * stands for any letters and ? for one; `[]`: none. Beside "
        "those that this file names itself",
    )
    protected_secrets: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Secrets and ConfigMaps that no job may mount or read: ours. Helm's own are never to be had",
    )
    protected_claims: tuple[str, ...] = Field(
        default=(), strict=False, description="PersistentVolumeClaims that no job may mount: the coordinator's state"
    )
    authority: SecretKey | None = Field(
        default=None, description="the Secret's entry with the authority that workers verify the coordinator by"
    )
    client_certificate: str | None = Field(
        default=None,
        description="mutual TLS: the Secret of type kubernetes.io/tls with the certificate that workers show",
    )
    pod: dict[str, Any] = Field(
        default_factory=dict, description="defaults of every job's spec.pod, which wins over them"
    )
    max_workers: int = Field(default=4096, ge=1, description="how many workers run at once, all jobs together")
    custom_resources: bool = Field(default=True, description="whether jobs are TrainingJob objects as well")
    network_policies: bool = Field(
        default=False,
        description="whether each job has a NetworkPolicy: its workers reach each other, no other's. What else they "
        "need (this coordinator, names, storage) takes a policy of yours for them all, as the chart makes one",
    )
    storage: Storage = Storage()


class Uploads(SpecModel):
    """What workers in pods may leave with the coordinator: their logs, and what their job keeps."""

    log_bytes: int = Field(default=1 << 30, ge=1 << 20, description="of one job's logs; then the oldest lines go")
    file_bytes: int = Field(default=16 << 30, ge=1, description="of one file of a result")
    job_bytes: int = Field(default=64 << 30, ge=1, description="of all files of one job")


class Retention(SpecModel):
    """Which jobs that have ended are removed, with their history, logs, results, and checkpoints that lie with them.

    One that ended within the last hour stays, and so does one whose weights a job starts from that has not ended.
    """

    max_jobs: int | None = Field(
        default=1000, ge=1, description="beyond the newest so many those that have ended are removed; null: none is"
    )
    max_age_days: float | None = Field(
        default=None, gt=0, description="those that ended longer ago are removed (default: none is, for its age)"
    )


class Database(SpecModel):
    """Where jobs are kept, if not in the state folder's SQLite file."""

    url_file: AbsolutePath = Field(description="the file that holds the URL: postgresql://user:password@host/database")


class LeaderElection(SpecModel):
    """Several coordinators on one database: the holder of this Lease decides, the others stand by."""

    lease: str = Field(min_length=1, description="the Lease's name, in the coordinator's namespace")
    duration_seconds: float = Field(default=15.0, gt=0)
    renew_seconds: float = Field(default=10.0, gt=0, description="a leader that could not renew for so long steps down")
    retry_seconds: float = Field(default=2.0, gt=0)


class Config(SpecModel):
    """A coordinator's whole configuration."""

    api_version: Literal["cordee.dev/v1alpha1"] = CONFIG_VERSION
    kind: Literal["CoordinatorConfig"] = "CoordinatorConfig"
    state: AbsolutePath | None = Field(default=None, description="the state folder (default: in the data folder)")
    listen: Listen = Listen()
    advertise: Advertise = Advertise()
    launcher: Literal["process", "kubernetes"] = Field(default="process", description="what runs agents")
    slots: int | None = Field(default=None, ge=1, description="launcher process: how many workers this machine takes")
    kubernetes: Kubernetes = Kubernetes()
    tls: Tls | None = None
    auth: Auth = Auth()
    uploads: Uploads = Uploads()
    retention: Retention = Retention()
    database: Database | None = None
    leader_election: LeaderElection | None = None


def load_config(path: Path) -> Config:
    """A configuration from a YAML file. Raises SpecError, with all mistakes at once and their lines."""
    where = str(path)
    node, document = load_yaml(read_text(path, "configuration file"), where)
    if not isinstance(document, dict):
        got = "is empty" if document is None else f"is {given(document)}"
        raise SpecError((Problem("the configuration", f"{got}; begin it with 'apiVersion: {CONFIG_VERSION}'"),), where)
    try:
        return Config.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        problems = [describe(detail, Config, file="the coordinator's configuration file") for detail in error.errors()]
        lines = [line_of(node, detail["loc"]) for detail in error.errors()]
        found = [Problem(p.field, p.message, line) for p, line in zip(problems, lines, strict=True)]
        raise SpecError(tuple(sorted(found, key=lambda problem: problem.line or 0)), where) from None


def config_schema() -> dict[str, Any]:
    """The file's JSON Schema, for editors."""
    schema = Config.model_json_schema(by_alias=True, mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"https://{CONFIG_VERSION}/{CONFIG_KIND}",
        **schema,
    }
