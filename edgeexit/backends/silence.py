"""Keeps third-party compilers quiet, and shows what they said when they fail.

They write to the file descriptors 1 and 2 from Python and from C++, so it is the descriptors that
are redirected. Whatever else in the process writes to them meanwhile is captured too. Python's own
streams may lead elsewhere (in a notebook, under pytest); they are led to the descriptors.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from edgeexit.errors import CompileError, EdgeExitError

_SHOWN_BYTES = 2000


@contextmanager
def silenced(error: type[CompileError], problem: str, *, where: object = None) -> Iterator[None]:
    """Captures all output and warnings of the block.

    Args:
        error: What an exception of a third party becomes; our own errors pass unchanged.
        problem: The sentence of that error.
        where: Segment, op or file, for that error.

    Raises:
        CompileError: As ``error`` says, with the exception's text and the end of what was printed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Descriptor(1), _Descriptor(2)
        saved = {}
        for descriptor in (1, 2):
            saved[descriptor] = os.dup(descriptor)
            os.dup2(log.fileno(), descriptor)
        try:
            yield
        except EdgeExitError:
            raise
        except Exception as exc:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _SHOWN_BYTES))
            printed = log.read().decode(errors="replace").strip()
            said = f"{type(exc).__name__}: {exc}"
            raise error(
                problem, given=f"{said}\n{printed}" if printed else said, where=where
            ) from exc
        finally:
            sys.stdout, sys.stderr = streams
            for descriptor, original in saved.items():
                os.dup2(original, descriptor)
                os.close(original)


class _Descriptor(io.TextIOBase):
    """Writes to a file descriptor, whatever that is at the time.

    A logger that is made in the block keeps this as its stream, and may use it long after.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        content = text.encode(errors="replace")
        while content:
            content = content[os.write(self._descriptor, content) :]
        return len(text)
