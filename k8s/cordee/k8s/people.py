"""People and programs that the API server vouches for: whoever has a token of this cluster, and the rights for it.

What they may do with jobs is what RBAC lets them do with `trainingjobs.cordee.dev` in the coordinator's namespace: get
and list to look, create to submit, update to scale, delete to cancel
or remove. `kubectl auth can-i create tj` says it as well.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cordee.coordinator.service.people import METRICS, REMOVE, Principal
from cordee.k8s.api import Api
from cordee.k8s.reviews import GROUP, RESOURCE, Identity, Reviews

if TYPE_CHECKING:
    from cordee.coordinator.config import Config

__all__ = ["ReviewedPeople", "open_people"]


@dataclass(frozen=True)
class _Rights:
    """What RBAC allows, asked for each kind of request."""

    reviews: Reviews
    identity: Identity

    async def allow(self, verb: str | None) -> bool:
        """Whether RBAC allows it; a page that no verb stands for is closed."""
        if verb is None:
            return False
        return await self.reviews.allowed(self.identity, _in_rbac(verb))

    def refused(self, verb: str | None) -> tuple[str, str]:
        """RBAC's words."""
        if verb is None:
            return "", "no role gives this right: it takes the administrator's token"
        what = f"{_in_rbac(verb)} {RESOURCE}.{GROUP}"
        role = "view" if verb in (METRICS, "get", "list") else "edit"
        return (
            f"{what.partition('.')[0]} in the namespace {self.reviews.namespace}",
            f"a Role must let them {what}; the chart's rbac.aggregate=true lets everybody with the role {role} there",
        )


def _in_rbac(verb: str) -> str:
    return {METRICS: "list", REMOVE: "delete"}.get(verb, verb)


class ReviewedPeople:
    """An authenticator: tokens that the API server knows, made for one of the audiences."""

    def __init__(self, reviews: Reviews, audiences: tuple[str, ...]) -> None:
        self._reviews = reviews
        self._audiences = audiences

    @property
    def source(self) -> str:
        """The cluster."""
        return f"what 'kubectl create token NAME --audience {self._audiences[0]}' prints for a service account"

    async def identify(self, token: str) -> Principal | None:
        """Whom the API server names."""
        identity = await self._reviews.identify(token, self._audiences)
        return None if identity is None else Principal(identity.username, _Rights(self._reviews, identity))

    async def close(self) -> None:
        """Ask nothing more."""
        self._reviews.close()


def open_people(config: "Config") -> ReviewedPeople:
    """The authenticator that a configuration asks for."""
    review = config.auth.token_review
    assert review is not None
    api = Api.connect(config.kubernetes)
    return ReviewedPeople(Reviews(api, api.namespace), review.audiences)
