"""Every error that edgeexit raises on purpose.

EdgeExitError
 |- ArgumentError             a value passed to an API or command is not usable
 |- ModelError                a network cannot carry the exits or the pass asked of it
 |- DataError                 a dataset, split or sample is not usable
 |   `- FetchError            a download failed or did not have the expected content
 |- CheckpointError           a checkpoint is missing, damaged or of another run
 |- TrainingError             a training cannot go on
 |- TargetError               a target is unknown, or a program does not fit it
 |- CompileError              a compiler pass could not do its work
 |   |- ExportError           the model is not one static graph
 |   |- QuantizationError     an op or a statistic cannot be made integer
 |   |- PartitionError        the graph cannot be cut at its exits
 |   |- LoweringError         a backend refused a segment
 |   `- VerificationError     an artifact disagrees with the graph it came from
 |- BundleError               a bundle is not whole, not valid or not safe
 |   `- BundleVersionError    a bundle was written for another schema
 |- EngineError               an engine failed while it loaded or ran a segment
 |   `- EngineNotInstalledError
 `- StorageError              the disk is full, or a folder is in use

An error carries up to four facts beside the problem: what was wanted, what was given, where, and
what to try. They are attributes, so that a program reads the same facts as a person.
"""

from __future__ import annotations


class EdgeExitError(Exception):
    """The root of all errors of this package.

    Args:
        problem: One sentence without a full stop: what went wrong.
        wanted: What would have been accepted.
        given: What came instead; values are shown with ``repr`` by the caller where it helps.
        where: Exit, segment, op, file or field.
        hint: What to try next.
    """

    def __init__(
        self,
        problem: str,
        *,
        wanted: object = None,
        given: object = None,
        where: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.wanted = None if wanted is None else str(wanted)
        self.given = None if given is None else str(given)
        self.where = None if where is None else str(where)
        self.hint = hint

    def facts(self) -> dict[str, str]:
        """The facts that are known, in reading order, under the keys that ``--json`` uses."""
        named = {
            "error": type(self).__name__,
            "problem": self.problem,
            "where": self.where,
            "wanted": self.wanted,
            "given": self.given,
            "try": self.hint,
        }
        return {key: value for key, value in named.items() if value is not None}

    def __str__(self) -> str:
        lines = [self.problem]
        lines += [
            f"  {key}: {value}"
            for key, value in self.facts().items()
            if key not in ("error", "problem")
        ]
        return "\n".join(lines)


class ArgumentError(EdgeExitError):
    """A value passed to an API or a command is not usable."""


class ModelError(EdgeExitError):
    """A network cannot carry the exits, or the pass, asked of it."""


class DataError(EdgeExitError):
    """A dataset, split or sample is not usable."""


class FetchError(DataError):
    """A download failed, or its content is not the expected one."""


class CheckpointError(EdgeExitError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class TrainingError(EdgeExitError):
    """A training cannot go on."""


class TargetError(EdgeExitError):
    """A target is unknown, or a program does not fit it."""


class CompileError(EdgeExitError):
    """A compiler pass could not do its work."""


class ExportError(CompileError):
    """The model could not be captured as one static graph."""


class QuantizationError(CompileError):
    """An op or a statistic cannot be made integer."""


class PartitionError(CompileError):
    """The graph cannot be cut at its exits."""


class LoweringError(CompileError):
    """A backend refused a segment."""


class VerificationError(CompileError):
    """An artifact disagrees with the graph it came from."""


class BundleError(EdgeExitError):
    """A bundle is not whole, not valid, or not safe to load."""


class BundleVersionError(BundleError):
    """A bundle was written for a schema that this version does not read."""


class EngineError(EdgeExitError):
    """An engine failed while it loaded or ran a segment."""


class EngineNotInstalledError(EngineError):
    """An engine's package is not installed."""


class StorageError(EdgeExitError):
    """The disk is full, or a folder is in use by somebody else."""
