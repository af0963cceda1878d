"""Roles, and what a token's grants of them cover. No I/O; `registry.core.access` says what a role may."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from registry.contracts.enums import StrEnum
from registry.contracts.rollout.spec import MAX_SELECTOR_CHARS
from registry.contracts.wire import Wire

MAX_GRANTS = 16
MAX_PATTERNS = 32
ModelPattern = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\*?$")]
"""The name of a model, or the beginning of names, with `*` at its end: `lenet`, `vision-*`."""


class Role(StrEnum):
    """What somebody does with a fleet. Each may also look at everything but secrets."""

    VIEWER = "viewer"
    """Looks, and changes nothing."""
    PUBLISHER = "publisher"
    """Uploads blobs, publishes versions, moves aliases, yanks, changes and deletes models."""
    DEPLOYER = "deployer"
    """Registers devices, labels them, says what they should serve, makes and runs rollouts."""
    APPROVER = "approver"
    """Approves or denies what others want to change."""
    ADMINISTRATOR = "administrator"
    """May do everything, and manages tokens and people."""


LIMITED_BY_MODELS = frozenset({Role.PUBLISHER, Role.DEPLOYER, Role.APPROVER})
LIMITED_BY_DEVICES = frozenset({Role.DEPLOYER, Role.APPROVER})


class RoleGrant(Wire):
    """A role, on some models and devices or on all of them. Several grants add up."""

    role: Role
    """Which."""
    models: Annotated[tuple[ModelPattern, ...], Field(max_length=MAX_PATTERNS)] = ()
    """Models to which it is limited, of publishers, deployers and approvers. Empty: all."""
    devices: Annotated[str, Field(max_length=MAX_SELECTOR_CHARS)] = ""
    """Selector of the devices to which it is limited, of deployers and approvers. Empty: all."""

    @model_validator(mode="after")
    def _has_limits_that_it_can_have(self) -> RoleGrant:
        if self.models and self.role not in LIMITED_BY_MODELS:
            raise ValueError(f"the role {self.role} is not limited to models: it looks at all of them")
        if self.devices.strip() and self.role not in LIMITED_BY_DEVICES:
            raise ValueError(f"the role {self.role} is not limited to devices")
        return self

    def __str__(self) -> str:
        limits = [*([f"of {', '.join(self.models)}"] if self.models else ()),
                  *([f"on {self.devices}"] if self.devices.strip() else ())]  # fmt: skip
        return " ".join([self.role.value, *limits])
