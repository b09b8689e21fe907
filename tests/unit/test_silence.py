"""Keeping third parties quiet."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

from edgeexit.backends.silence import silenced
from edgeexit.errors import LoweringError, PartitionError


def test_nothing_comes_through(capfd: pytest.CaptureFixture[str]) -> None:
    with silenced(LoweringError, "a failure"):
        print("from Python")
        os.write(1, b"from C, to stdout")
        os.write(2, b"from C, to stderr")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        warnings.warn("a warning", stacklevel=1)
    print("after")
    assert capfd.readouterr() == ("after\n", "")


def test_what_was_said_is_shown_with_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LoweringError, match="the op failed") as error:
        fail_loudly()
    assert error.value.given == "KeyError: 'conv'\nE: no kernel"
    assert error.value.where == "segment 1"
    assert isinstance(error.value.__cause__, KeyError)
    assert capfd.readouterr() == ("", "")


@silenced(LoweringError, "the op failed", where="segment 1")
def fail_loudly() -> None:
    os.write(2, b"E: no kernel")
    raise KeyError("conv")


def test_our_own_errors_and_interrupts_pass() -> None:
    with pytest.raises(PartitionError, match="ours"), silenced(LoweringError, "theirs"):
        raise PartitionError("ours")
    with pytest.raises(KeyboardInterrupt), silenced(LoweringError, "theirs"):
        raise KeyboardInterrupt
