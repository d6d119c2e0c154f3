"""What a server allows, and how it speaks of itself."""

from pydantic import Field

from weft.config import Settings

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServerSettings(Settings):
    """Limits of the door; those of the engine are its own."""

    max_body_bytes: int = Field(default=8 << 20, ge=1)
    """Largest body of a request."""
    max_held_bytes: int = Field(default=256 << 20, ge=1)
    """Bodies of all requests under way together; what would be more is answered 429."""
    max_inputs: int = Field(default=256, ge=1)
    """Most inputs of a request."""
    max_new_tokens: int = Field(default=1024, ge=1)
    """Longest continuation that may be asked for, in tokens."""
    max_requests: int = Field(default=512, ge=1)
    """Requests under way at a time, those that wait in the engine's queue among them; more are answered 429."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Seconds after which an answer comes too late; a request may ask for less."""
    waiting_s: float = Field(default=10.0, gt=0)
    """Seconds of work that may wait; where more would, the expert with most waiting is answered 429."""
    body_timeout_s: float = Field(default=20.0, gt=0)
    """Seconds in which the body of a request has to arrive."""
    send_timeout_s: float = Field(default=20.0, gt=0)
    """Seconds in which a client has to take a piece of its answer."""
    drain_s: float = Field(default=30.0, gt=0)
    """Seconds that requests under way have once the server is asked to stop."""
    hosts: tuple[str, ...] = LOOPBACK
    """Names that requests may call the server by, without the port; () is any. A page from elsewhere that has its own
    name resolve to this machine is refused by it."""
    log_texts: bool = False
    """Write inputs and answers to the log."""
