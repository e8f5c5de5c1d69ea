"""What all sections of the job file have in common: the strict model, and the checks of texts, paths and places."""

import re
from typing import Final

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from cordee.coordinator.spec_problems import brief

__all__ = [
    "ENV_NAME",
    "KERNEL_VARIABLES",
    "PLACE_FORMS",
    "STORAGE_SCHEMES",
    "SpecModel",
    "check_env",
    "check_path",
    "check_place",
    "check_text",
    "wrong",
]

STORAGE_SCHEMES: Final = {"s3": "AWS_*", "gs": "GOOGLE_*", "az": "AZURE_*", "file": ""}
"""URLs of storage, and the environment variables that give access to it."""
PLACE_FORMS: Final = "a path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"


ENV_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"
KERNEL_VARIABLES: Final = ("CORDEE_KERNELS", "CORDEE_KERNEL_CACHE")
"""Of the variables that are Cordee's own, those that a job may set, and that agents on this machine inherit."""


def wrong(message: str) -> PydanticCustomError:
    """A validator's own finding: the part of the sentence that follows the field's path."""
    return PydanticCustomError("cordee", "{message}", {"message": message})


def check_text(text: str) -> str:
    if "\0" in text:
        raise wrong("holds a NUL character, which no command line or environment can carry")
    return text


def check_path(text: str) -> str:
    if not text.strip():
        raise wrong('is empty; give a path such as "train.py"')
    return check_text(text)


def check_place(text: str) -> str:
    """A folder or file, or a URL of storage. Credentials are never part of a job."""
    check_path(text)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return text
    if scheme not in STORAGE_SCHEMES or not rest.strip("/") or (scheme == "file" and not rest.startswith("/")):
        raise wrong(f"is {brief(text)}; give {PLACE_FORMS}")
    if "@" in rest.split("/")[0] or "?" in rest or "#" in rest:
        raise wrong(
            f"is a URL with more than a place in it; give {PLACE_FORMS}, and credentials in the environment of the "
            f"coordinator ({', '.join(STORAGE_SCHEMES[name] for name in ('s3', 'gs', 'az'))})"
        )
    return text


def check_env(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not re.fullmatch(ENV_NAME, name):
            raise wrong(f"has a variable named {brief(name)}; names are letters, digits and '_'")
        if name.startswith("CORDEE_") and name not in KERNEL_VARIABLES:
            raise wrong(f"sets {name}, but names that begin with CORDEE_ are Cordee's own; choose another name")
        if "\0" in value:
            raise wrong(f"gives {name} a value with a NUL character, which no environment can carry")
    return env


class SpecModel(BaseModel):
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
