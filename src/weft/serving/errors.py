"""What a request can be refused with: a sentence, a code that stays, the HTTP status that says the same."""

import logging
from pathlib import Path
from typing import ClassVar

LOG = logging.getLogger("weft.serving")


class ServingError(Exception):
    """A request that gets no answer; its message says what came, what was expected and what to do."""

    code: ClassVar[str]
    """Stable: what programs look at."""
    status: ClassVar[int]
    """Of HTTP."""


class UnknownExpert(ServingError):  # noqa: N818 - what it is, as HTTP's reasons are named
    """There is no expert of that name."""

    code = "unknown_expert"
    status = 404


class NameRefused(ServingError):  # noqa: N818
    """A name that no expert can have."""

    code = "name_refused"
    status = 400


class BadInput(ServingError):  # noqa: N818
    """An input that the task does not take, or settings that it does not have."""

    code = "bad_input"
    status = 422


class TooLarge(ServingError):  # noqa: N818
    """More than one request may hold."""

    code = "too_large"
    status = 413


class ExpertRefused(ServingError):  # noqa: N818
    """A folder that holds nothing which can answer here: damaged, over the limits, of another base."""

    code = "expert_refused"
    status = 422

    def told(self, name: str, folder: Path) -> "ExpertRefused":
        """The same for clients, to whom the expert's name stands for its folder; where that lies is for the log."""
        said = str(self).replace(str(folder), name)
        if said == str(self):
            return self
        LOG.warning("expert refused", extra={"fields": {"expert": name, "reason": str(self)}})
        return ExpertRefused(said)


class ExpertInUse(ServingError):  # noqa: N818
    """A change of an expert while another change of it is under way."""

    code = "expert_in_use"
    status = 409


class Overloaded(ServingError):  # noqa: N818
    """More work waits than the limits allow.

    Args:
        message: The sentence.
        retry_after: Seconds after which to ask again.
    """

    code = "overloaded"
    status = 429

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type["Overloaded"], tuple[str, float]]:
        # An exception is pickled by its message alone.
        return type(self), (str(self), self.retry_after)


class DeadlinePassed(ServingError):  # noqa: N818
    """There was no answer in the time that the request gave."""

    code = "deadline_passed"
    status = 504


class Draining(ServingError):  # noqa: N818
    """The engine is about to end and takes nothing new."""

    code = "draining"
    status = 503


class ReplicaLost(ServingError):  # noqa: N818
    """The process that was to answer died, and so did the one that was asked after it; or there is none."""

    code = "replica_lost"
    status = 503
    retry_after = 1.0
    """Seconds after which to ask again."""


class Failed(ServingError):  # noqa: N818
    """The forward pass itself failed: out of memory, or a fault of ours."""

    code = "failed"
    status = 500


class Unauthorized(ServingError):  # noqa: N818
    """No key, or one that nobody has."""

    code = "unauthorized"
    status = 401


class Forbidden(ServingError):  # noqa: N818
    """A key without the right to do this."""

    code = "forbidden"
    status = 403
