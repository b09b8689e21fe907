"""``edgeexit targets``: which devices can be compiled for."""

from __future__ import annotations

import click

from edgeexit.cli.output import emit, json_option, table


@click.command(name="targets", epilog="\b\nExample:\n  edgeexit targets --json")
@json_option
def command(as_json: bool) -> None:
    """List the devices that a network can be compiled for.

    Flash and RAM are what the device has in one piece. A dash stands where a core is no board, and
    where QEMU does not emulate it. With --json come the cost profiles and where they are from.
    """
    from edgeexit.targets import list_targets

    targets = list_targets()
    columns = ("name", "core", "backends", "in QEMU", "clock", "flash\nKiB", "RAM\nKiB")
    rows = table("Targets", *columns, left=4)
    rows.columns[0].no_wrap = True  # a name is there to be copied
    for target in targets:
        limits = target.limits
        rows.add_row(
            target.name,
            target.core.name if target.core else ", ".join(target.architectures),
            ", ".join((*target.backends, *(("c",) if target.emits_c else ()))),
            target.emulator.machine if target.emulator else "-",
            f"{target.clock_hz / 1e6:g} MHz" if target.clock_hz else "-",
            _size(limits.flash_bytes if limits else None),
            _size(limits.ram_bytes if limits else None),
        )
    emit(targets, as_json=as_json, show=lambda console: console.print(rows))


def _size(num_bytes: int | None) -> str:
    return "-" if num_bytes is None else f"{num_bytes / 1024:,.0f}"
