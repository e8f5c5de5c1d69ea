"""Who is let in, put together from the configuration: for people, and for workers.

What an authenticator needs is loaded where it is configured; what is wrong with it is told before a port is opened.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.identity import JobTokens, WorkerVerifier
from cordee.coordinator.service.launchers.base import Launcher
from cordee.coordinator.service.people import Authenticator, OnlyMetrics, People, Principal, StaticTokens, rights_of

if TYPE_CHECKING:
    from cordee.coordinator.config import Config

__all__ = ["open_people", "open_workers"]


def open_people(config: "Config | None", token: str) -> People:
    """People's door. `token` is the administrator's, where no file of the configuration holds it."""
    named = config.auth if config is not None else None
    if named is None:
        return People([StaticTokens([], fixed=[(token, Principal())])])
    files = [(Path(one.file), Principal(one.name, rights_of(one.role))) for one in named.tokens]
    if named.metrics_token_file is not None:
        files.append((Path(named.metrics_token_file), Principal("metrics", OnlyMetrics())))
    if named.token_file is not None:
        files.append((Path(named.token_file), Principal()))
    fixed = [] if named.token_file is not None else [(token, Principal())]
    doors: list[Authenticator] = [StaticTokens(files, fixed=fixed)]
    if named.oidc is not None:
        oidc = _load("cordee.coordinator.service.oidc", "auth.oidc", "oidc")
        doors.append(oidc.OidcTokens(named.oidc))
    if named.token_review is not None:
        people = _load("cordee.k8s.people", "auth.tokenReview", "kubernetes")
        doors.append(people.open_people(config))
    return People(doors)


def open_workers(launcher: Launcher, controller: Controller) -> WorkerVerifier:
    """Workers' door: the launcher's own way to know them, or the jobs' tokens."""
    verifier: WorkerVerifier | None = getattr(launcher, "verifier", None)
    return verifier if verifier is not None else JobTokens(controller.job_of_token)


def _load(module: str, section: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CoordinatorError(
            f"{section} is configured, and what it needs is not installed: {error}",
            hint=f"install Cordee with the extra '{extra}': pip install 'cordee[{extra}]'",
        ) from error
