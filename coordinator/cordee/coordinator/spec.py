"""The job file: what a user asks for, checked before anything is started.

A job file is YAML with a versioned schema (`apiVersion`, `kind`), like a Kubernetes object, so that one file serves the
laptop and the cluster. Every mistake is refused here, all of them at once, with one sentence each that names the
field by its path, says what was given and what would be right: a training job that dies of a typing error after an hour
in a queue is the most avoidable fault there is.

The schema is strict: no unknown fields (a mistyped option must not be ignored), no silent conversion (`threads: "2"` is
a mistake, and so is `args: [10]`, which YAML reads as a number and would print differently), no duplicate keys, no YAML
aliases (a few lines of nested ones would unfold into gigabytes). Plain words are read by YAML 1.2's rules: in YAML 1.1,
which PyYAML speaks, `workers: 1:3` is the number 63, sexagesimal, and `DEBUG: no` is false.

In a job file `script` and `source` are relative to the job file's folder. The client packs `source`, rewrites `script`
relative to it and drops `source`: what a coordinator accepts is a *bundled* document (`parse_job(..., bundled=True)`).
"""

import difflib
import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, NoReturn

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

__all__ = [
    "API_VERSION",
    "DEVICES",
    "KIND",
    "LAUNCHERS",
    "MAX_FILE_BYTES",
    "Checkpoint",
    "JobDocument",
    "JobSpec",
    "Metadata",
    "Problem",
    "SpecError",
    "Workers",
    "job_schema",
    "load_job",
    "parse_job",
    "parse_workers",
]

API_VERSION: Final = "cordee.dev/v1alpha1"
KIND: Final = "TrainingJob"
DEVICES: Final = ("cpu", "cuda", "auto")
LAUNCHERS: Final = ("process",)
MAX_FILE_BYTES: Final = 1 << 20
MAX_WORKERS: Final = 4096
MAX_NAME_LENGTH: Final = 40  # leaves room for the job id's suffix and a worker's `-w<k>` within a DNS label's 63

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORKERS = re.compile(r"\s*(\d{1,9})\s*(?::\s*(\d{1,9})\s*)?")
_WORKERS_FORMS = 'a number such as 3, a range such as "1:3", or {min: 1, max: 3}'

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 60
_brief.maxdict = _brief.maxlist = 4
_brief.maxlevel = 2


def _wrong(message: str) -> PydanticCustomError:
    """A validator's own finding: the part of the sentence that follows the field's path."""
    return PydanticCustomError("cordee", "{message}", {"message": message})


def _check_name(name: str) -> str:
    if len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name):
        return name
    guess = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MAX_NAME_LENGTH].strip("-")
    raise _wrong(
        f"is {_brief.repr(name)}; a name is 1 to {MAX_NAME_LENGTH} lower-case letters, digits and '-', and begins and "
        f"ends with a letter or digit" + (f", for example {guess!r}" if guess else "")
    )


def _check_text(text: str) -> str:
    if "\0" in text:
        raise _wrong("holds a NUL character, which no command line or environment can carry")
    return text


def _check_path(text: str) -> str:
    if not text.strip():
        raise _wrong('is empty; give a path such as "train.py"')
    return _check_text(text)


def _check_env(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            raise _wrong(f"has a variable named {_brief.repr(name)}; names are letters, digits and '_'")
        if name.startswith("CORDEE_"):
            raise _wrong(f"sets {name}, but names that begin with CORDEE_ are Cordee's own; choose another name")
        if "\0" in value:
            raise _wrong(f"gives {name} a value with a NUL character, which no environment can carry")
    return env


def _read_workers(value: object) -> object:
    """`3`, `"3"` and `"1:3"` are shorthands for the mapping."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        if isinstance(value, Mapping | Workers):
            return value
        raise _wrong(f"is {_given(value)}; give {_WORKERS_FORMS}")
    match = _WORKERS.fullmatch(str(value))
    if not match:
        raise _wrong(f"is {_brief.repr(value)}; give {_WORKERS_FORMS}")
    low = int(match[1])
    return {"min": low, "max": low if match[2] is None else int(match[2])}


class _Model(BaseModel):
    """Frozen, strict, nothing unknown; camelCase in files, snake_case in Python."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        allow_inf_nan=False,
    )


class Metadata(_Model):
    """What a job is called."""

    name: Annotated[str, AfterValidator(_check_name)] = Field(
        description=f"DNS label of at most {MAX_NAME_LENGTH} characters; the job's id is this and a random suffix",
        json_schema_extra={"pattern": f"^{_NAME.pattern}$", "maxLength": MAX_NAME_LENGTH},
    )


class Workers(_Model):
    """How many workers a job needs to make progress, and how many it can use."""

    min: int = Field(ge=1, le=MAX_WORKERS, description="below this many the job waits; it never trains with fewer")
    max: int = Field(ge=1, le=MAX_WORKERS, description="at most this many are started")

    @model_validator(mode="after")
    def _ordered(self) -> "Workers":
        if self.min > self.max:
            raise _wrong(f"has min {self.min} above max {self.max}; min must be at most max")
        return self

    def __str__(self) -> str:
        return f"{self.min}" if self.min == self.max else f"{self.min}:{self.max}"


class Checkpoint(_Model):
    """When the state goes to storage; written beside training, so a short interval costs little."""

    interval_seconds: float = Field(default=30.0, ge=0, description="seconds between checkpoints; 0: not by time")
    interval_steps: int = Field(default=0, ge=0, description="steps between checkpoints; 0: not by steps")
    keep: int = Field(default=3, ge=1, description="how many checkpoints are kept; older ones are removed")


class JobSpec(_Model):
    """What is run, and with what."""

    script: Annotated[str, AfterValidator(_check_path)] = Field(
        description="the training script; in a job file relative to the file's folder, in a submitted job to the bundle"
    )
    args: Annotated[tuple[Annotated[str, AfterValidator(_check_text)], ...], Field(strict=False)] = Field(
        default=(), description="the script's arguments"
    )
    source: Annotated[str, AfterValidator(_check_path)] | None = Field(
        default=None,
        description="the folder that travels with the job (default: the script's folder); client-side only",
    )
    workers: Annotated[Workers, BeforeValidator(_read_workers, json_schema_input_type=Workers | int | str)] = Field(
        default=Workers(min=1, max=1), description=_WORKERS_FORMS
    )
    threads: int = Field(default=1, ge=1, le=1024, description="BLAS threads per worker; part of the numbers' identity")
    device: Literal["cpu", "cuda", "auto"] = Field(
        default="auto", description="where the arrays live; auto: CUDA where a device and CuPy are there"
    )
    launcher: Literal["process"] = Field(default="process", description="what starts the workers")
    env: Annotated[dict[str, str], AfterValidator(_check_env)] = Field(
        default_factory=dict, description="environment variables of the script"
    )
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="when the state goes to storage")


class JobDocument(_Model):
    """A whole job file."""

    api_version: Literal["cordee.dev/v1alpha1"] = Field(description="the schema's version")
    kind: Literal["TrainingJob"] = Field(description="what this file describes")
    metadata: Metadata
    spec: JobSpec

    def to_document(self) -> dict[str, Any]:
        """The plain JSON form, every field written out; `parse_job` of it gives an equal document."""
        document = self.model_dump(mode="json", by_alias=True)
        if document["spec"]["source"] is None:
            del document["spec"]["source"]
        return document

    def bundled(self, script: str) -> "JobDocument":
        """This job as it is submitted: its script relative to the bundle, and no source folder of this machine."""
        spec = self.spec.model_copy(update={"script": script, "source": None})
        return parse_job(self.model_copy(update={"spec": spec}).to_document(), bundled=True)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a job file."""

    field: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.field} {self.message}" if self.field else f"{place}{self.message}"


class SpecError(ValueError):
    """A job file or worker range that cannot be used. `problems` holds one sentence per mistake."""

    def __init__(self, problems: tuple[Problem, ...], where: str = "") -> None:
        self.problems = problems
        self.where = where
        lines = [f"{where}: {problem}" if where else str(problem) for problem in problems]
        super().__init__("\n".join(lines))


def parse_workers(text: str | int) -> Workers:
    """`3` and `"1:3"` as a range of worker counts."""
    try:
        return Workers.model_validate(_read_workers(text))
    except PydanticCustomError as error:
        raise SpecError((Problem("workers", error.message()),)) from None
    except ValidationError as error:
        raise SpecError(tuple(_problem(detail, Workers, ("workers",)) for detail in error.errors())) from None


def parse_job(document: object, *, bundled: bool = False, where: str = "") -> JobDocument:
    """A job from plain data (parsed YAML or JSON).

    `bundled` adds what a coordinator insists on: the script lies inside the bundle, and no folder of the client's
    machine is named.
    """
    return _validate(document, bundled, where, lambda _path: None)


def load_job(source: str | Path) -> JobDocument:
    """A job from a YAML file (`Path`) or from YAML text (`str`)."""
    where = ""
    if isinstance(source, Path):
        where = str(source)
        text = _read(source)
    else:
        text = source
        if len(text.encode("utf-8", "surrogatepass")) > MAX_FILE_BYTES:
            _refuse(where, f"is larger than {MAX_FILE_BYTES >> 20} MiB; a job file is a page of YAML")
    node, document = _load_yaml(text, where)
    return _validate(document, False, where, lambda path: _line_of(node, path))


def job_schema() -> dict[str, Any]:
    """The job file's JSON Schema, for editors and for other people's tools."""
    schema = JobDocument.model_json_schema(by_alias=True, mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"https://{API_VERSION}/{KIND}", **schema}


# --- reading ----------------------------------------------------------------------------------------------------------


def _refuse(where: str, message: str) -> NoReturn:
    raise SpecError((Problem("" if where else "the job file", message),), where)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        _refuse(str(path), "there is no such file; give the path of a job file")
    except IsADirectoryError:
        _refuse(str(path), "is a folder; give the path of a job file")
    except OSError as error:
        _refuse(str(path), f"cannot be read: {error.strerror}")
    if len(raw) > MAX_FILE_BYTES:
        _refuse(str(path), f"is larger than {MAX_FILE_BYTES >> 20} MiB; a job file is a page of YAML")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(str(path), f"is not UTF-8 text (byte {error.start}); a job file is YAML")


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, less what hides mistakes or unfolds: duplicate keys and aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="YAML aliases (*name) are not used in job files; write the value out",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a field's name must be plain text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is given twice (first in line {seen[key.value]}); keep one of them",
                    problem_mark=key.start_mark,
                )
            seen[key.value] = line
        return super().construct_mapping(node, deep)


# YAML 1.2's core schema, in place of SafeLoader's: what a plain word means, by its first character.
_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^([-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])


def _load_yaml(text: str, where: str) -> tuple[yaml.Node | None, object]:
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            document = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise SpecError((Problem("", _one_sentence(error), line),), where) from None
    except yaml.YAMLError as error:
        raise SpecError((Problem("", f"is not valid YAML: {' '.join(str(error).split())}"),), where) from None
    except (RecursionError, ValueError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SpecError((Problem("", f"is not a usable YAML document: {reason}"),), where) from None
    return node, document


def _one_sentence(error: yaml.MarkedYAMLError) -> str:
    if error.problem and "expected a single document" in f"{error.context} {error.problem}":
        return "holds several YAML documents; a job file is one"
    own = type(error) is yaml.MarkedYAMLError
    parts = [part for part in (error.context, error.problem) if part]
    return (error.problem or "") if own else f"is not valid YAML: {', '.join(parts)}"


def _line_of(node: yaml.Node | None, path: tuple[str | int, ...]) -> int | None:
    """The line where the field at `path` stands, or its nearest enclosing one."""
    line = None
    for step in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            item: yaml.Node = node.value[step]
            line, node = item.start_mark.line + 1, item
        else:
            break
    return line


# --- sentences --------------------------------------------------------------------------------------------------------


def _validate(document: object, bundled: bool, where: str, line_of: Any) -> JobDocument:
    if not isinstance(document, Mapping):
        got = "is empty" if document is None else f"is {_given(document)}"
        raise SpecError((Problem("the job file", f"{got}; begin it with 'apiVersion: {API_VERSION}'"),), where)
    try:
        job = JobDocument.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            problem = _problem(detail, JobDocument, ())
            problems.append(Problem(problem.field, problem.message, line_of(detail["loc"])))
        raise SpecError(tuple(sorted(problems, key=lambda problem: problem.line or 0)), where) from None
    found = tuple(Problem(f, m, line_of(tuple(f.split(".")))) for f, m in _unbundled(job)) if bundled else ()
    if found:
        raise SpecError(found, where)
    return job


def _unbundled(job: JobDocument) -> Iterator[tuple[str, str]]:
    script = PurePosixPath(job.spec.script)
    if script.is_absolute() or ".." in script.parts or "\\" in job.spec.script:
        yield "spec.script", f"is {job.spec.script!r}; it must be a path inside the bundle, such as 'train.py'"
    if job.spec.source is not None:
        yield "spec.source", "names a folder of the client's machine; leave it out and send the bundle's sha256"


_YAML_TYPES: Final[tuple[tuple[type, str], ...]] = (
    (bool, "true or false"),
    (int, "a number"),
    (float, "a number"),
    (str, "text"),
    (Mapping, "a mapping"),
    (list, "a list"),
)


def _given(value: object) -> str:
    """What was given, in YAML's words: `10, a number`."""
    if value is None:
        return "empty"
    kind = next((name for kind, name in _YAML_TYPES if isinstance(value, kind)), f"of type {type(value).__name__}")
    if isinstance(value, Mapping | list):
        return kind
    shown = json.dumps(value) if isinstance(value, bool) else _brief.repr(value)
    return f"{shown}, {kind}" if not isinstance(value, bool) else shown


def _quoted(value: object) -> str:
    """What to write for a value YAML did not read as text."""
    if isinstance(value, Mapping | list) or value is None:
        return "it must be text"
    text = json.dumps(value) if isinstance(value, bool | int | float) else str(value)
    return f'it must be text: write it in quotes, "{text}"'


_WANTED: Final[dict[str, str]] = {
    "int_type": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "float_type": "it must be a number",
    "finite_number": "it must be a finite number",
    "tuple_type": 'it must be a list, such as [--epochs, "10"]',
    "dict_type": "it must be a mapping, such as {KEY: value}",
    "model_type": "it must be a mapping of fields",
    "model_attributes_type": "it must be a mapping of fields",
}


def _problem(detail: ErrorDetails, root: type[BaseModel], prefix: tuple[str, ...]) -> Problem:
    loc, kind, value, context = detail["loc"], detail["type"], detail["input"], detail.get("ctx", {})
    if loc and loc[-1] == "[key]":
        return Problem(_path((*prefix, *loc[:-2])), f"has the name {_given(loc[-2])}; write it in quotes")
    field = _path((*prefix, *loc))
    match kind:
        case "missing":
            message = f"is missing{_example(loc)}"
        case "extra_forbidden":
            message = f"is not a field of a job file{_suggestion(root, loc)}"
        case "cordee":
            message = str(context["message"])
        case "literal_error":
            given = _brief.repr(value) if isinstance(value, str) else _given(value)
            message = f"is {given}; it must be {context['expected']}"
        case "greater_than_equal":
            message = f"is {_brief.repr(value)}; it must be at least {context['ge']}"
        case "less_than_equal":
            message = f"is {_brief.repr(value)}; it must be at most {context['le']}"
        case "string_type":
            message = f"is {_given(value)}; {_quoted(value)}"
        case _ if kind in _WANTED:
            message = f"is {_given(value)}; {_WANTED[kind]}"
        case _:
            message = f"is {_given(value)}; {detail['msg'][:1].lower()}{detail['msg'][1:]}"
    return Problem(field, message)


def _path(loc: tuple[str | int, ...]) -> str:
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


_EXAMPLES: Final[dict[tuple[str | int, ...], str]] = {
    ("apiVersion",): f"apiVersion: {API_VERSION}",
    ("kind",): f"kind: {KIND}",
    ("metadata",): "metadata: {name: my-job}",
    ("metadata", "name"): "name: my-job",
    ("spec",): "spec: {script: train.py}",
    ("spec", "script"): "script: train.py",
    ("spec", "workers", "min"): "min: 1",
    ("spec", "workers", "max"): "max: 3",
}


def _example(loc: tuple[str | int, ...]) -> str:
    return f"; write '{_EXAMPLES[loc]}'" if loc in _EXAMPLES else ""


def _fields(model: type[BaseModel], path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every (enclosing path, field name) of the schema."""
    for name, info in model.model_fields.items():
        alias = info.alias or name
        yield path, alias
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _fields(info.annotation, (*path, alias))


def _plain(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _suggestion(root: type[BaseModel], loc: tuple[str | int, ...]) -> str:
    """The field that was probably meant: one of this level that is spelt alike, or one of that name elsewhere."""
    fields = list(_fields(root))
    here = [name for path, name in fields if path == loc[:-1]]
    wanted = _plain(loc[-1])
    close = difflib.get_close_matches(wanted, [_plain(name) for name in here], n=1, cutoff=0.6)
    if close:
        name = next(name for name in here if _plain(name) == close[0])
        return f"; did you mean {_path((*loc[:-1], name))}?"
    elsewhere = [(*path, name) for path, name in fields if _plain(name) == wanted]
    if elsewhere:
        return f"; did you mean {_path(elsewhere[0])}?"
    return f"; known here: {', '.join(here)}" if here else ""
