"""How people write versions: `MODEL@REF`."""

from __future__ import annotations

from registry.client.errors import UsageFault


def split_reference(text: str, default: str | None = None) -> tuple[str, str | None]:
    """`MODEL@REF` as (model, version or alias); `default` where there is no `@`.

    Raises:
        UsageFault: a part is empty.
    """
    model, at, reference = text.partition("@")
    if not model or (at and not reference):
        raise UsageFault(f"{text!r} is not of the form MODEL or MODEL@VERSION", hint="For example lenet@1.0.0")
    return model, reference if at else default
