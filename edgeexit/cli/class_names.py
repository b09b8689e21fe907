"""Whether data and a bundle speak of the same classes."""

from __future__ import annotations

from collections.abc import Sequence

from edgeexit.errors import DataError
from edgeexit.types import Manifest


def check_classes(manifest: Manifest, class_names: Sequence[str], source: str) -> None:
    """Complains of data whose labels mean other classes than the bundle's.

    Data without names are given 0, 1, ... for names; of such names only the number is compared.

    Args:
        manifest: The bundle's.
        class_names: The data's.
        source: The data, as the error names them.

    Raises:
        DataError: Number, names or order differ.
    """
    if len(class_names) != manifest.num_classes:
        raise DataError(
            "the data have another number of classes than the bundle",
            wanted=f"{manifest.num_classes} classes",
            given=f"{len(class_names)} classes",
            where=source,
        )
    if _only_count(class_names) or _only_count(manifest.class_names):
        return
    for label, (known, name) in enumerate(zip(manifest.class_names, class_names, strict=True)):
        if known != name:
            raise DataError(
                "the data have other classes than the bundle",
                wanted=f"{known!r} as class {label}",
                given=f"{name!r} as class {label}",
                where=source,
                hint="use data with the classes that the bundle was made for, in their order",
            )


def _only_count(names: Sequence[str]) -> bool:
    return all(name == str(label) for label, name in enumerate(names))
