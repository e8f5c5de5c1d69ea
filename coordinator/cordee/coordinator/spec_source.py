"""Where a job's source comes from, when it is not a folder that travels with the submission.

`cordee submit` packs a folder. Whoever makes a TrainingJob object with kubectl has no way to upload one, and says where
the source lies: in a ConfigMap (its keys are files), in the workers' image, or in a bundle that was uploaded before.
"""

import re
from pathlib import PurePosixPath
from typing import Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from cordee.coordinator.spec_fields import SpecModel, check_path, wrong
from cordee.coordinator.spec_problems import brief

__all__ = ["BUNDLE_PATTERN", "OBJECT_NAME_PATTERN", "ImageSource", "SourceFrom"]

BUNDLE_PATTERN: Final = "[0-9a-f]{64}"
OBJECT_NAME_PATTERN: Final = "[a-z0-9]([-a-z0-9.]*[a-z0-9])?"


def _check_folder(path: str) -> str:
    check_path(path)
    if not PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise wrong(f"is {brief(path)}; give an absolute path in the workers' image, such as /workspace")
    return path


def _check_bundle(sha256: str) -> str:
    if not re.fullmatch(BUNDLE_PATTERN, sha256):
        raise wrong(f"is {brief(sha256)}; a bundle is named by its SHA-256, 64 hexadecimal digits in lower case")
    return sha256


def _check_object_name(name: str) -> str:
    if len(name) > 253 or not re.fullmatch(OBJECT_NAME_PATTERN, name):
        raise wrong(f"is {brief(name)}, which cannot be the name of a ConfigMap")
    return name


class ImageSource(SpecModel):
    """The source lies in the workers' image."""

    path: Annotated[str, AfterValidator(_check_folder)] = Field(
        description="the folder in the image that the script lies in, an absolute path",
        json_schema_extra={"pattern": "^/"},
    )


class SourceFrom(SpecModel):
    """Where the source comes from: exactly one of these."""

    config_map: Annotated[str, AfterValidator(_check_object_name)] | None = Field(
        default=None,
        description="the ConfigMap, in the job's namespace, whose keys are the files; for jobs made by kubectl",
    )
    image: ImageSource | None = Field(default=None, description="the source lies in the workers' image")
    bundle: Annotated[str, AfterValidator(_check_bundle)] | None = Field(
        default=None, description="the SHA-256 of a bundle that the coordinator has: of what cordee submit uploaded"
    )

    @model_validator(mode="after")
    def _one(self) -> "SourceFrom":
        if sum(value is not None for value in (self.config_map, self.image, self.bundle)) != 1:
            raise wrong("must have exactly one of configMap, image and bundle")
        return self
