"""What a target takes, once a delegate was asked for."""

from __future__ import annotations

from dataclasses import replace

from edgeexit.backends.base import find_delegate
from edgeexit.errors import TargetError
from edgeexit.targets import Target


def with_delegate(target: Target, name: str | None) -> Target:
    """The target as it is with a delegate: its backend is there, checked by the delegate's engine.

    Args:
        target: As its file says.
        name: A key of `backends.base.DELEGATES`; None leaves the target as it is.

    Raises:
        ArgumentError: There is no such delegate.
        TargetError: The target has no core that it is for, or does not take its backend.
    """
    if name is None:
        return target
    delegate = find_delegate(name)
    if delegate.is_for_core:
        if target.core is None or not target.core.name.startswith("cortex-m"):
            raise TargetError(
                f"the delegate {name!r} is for Cortex-M",
                wanted="a target with such a core",
                given=f"{target.name}: {target.core.name if target.core else target.system}",
                hint="edgeexit targets lists them",
            )
    elif delegate.backend not in target.backends:
        raise TargetError(
            f"the target {target.name!r} does not take the backend {delegate.backend!r}",
            wanted=", ".join(target.backends),
            given=f"delegate {name!r}",
        )
    return replace(
        target,
        backends=tuple(dict.fromkeys((*target.backends, delegate.backend))),
        engines={**target.engines, delegate.backend: delegate.engine},
    )
