"""What the host decides on the command line: limits, timeouts, network policy. Plain values."""

from typing import Final

from msgspec import Struct

MIB: Final = 2**20


class Settings(Struct, frozen=True, kw_only=True):
    """Options of the plugin with their defaults; sizes in bytes, times in seconds."""

    max_connections: int = 5
    open_timeout: float = 10
    close_timeout: float = 10
    ping_interval: float = 20
    ping_timeout: float = 20
    max_message_size: int = 16 * MIB
    max_line: int = 64 * MIB
    max_send_buffer: int = 16 * MIB
    allow_hosts: tuple[str, ...] = ()
    allow_insecure: bool = False
    block_private: bool = False
    ca_file: str | None = None
    proxy: str | None = None
    """URL of the proxy, or ``"none"``; None takes the system's."""
    linger: float = 0
