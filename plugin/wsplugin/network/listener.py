"""What a wire needs of its connection, and tells it."""

from typing import Protocol

from wsplugin.messages import App, ConnectionErrorCode
from wsplugin.network.frames import MessageSink
from wsplugin.network.keepalive import Answered
from wsplugin.output import Output
from wsplugin.settings import Settings
from wsplugin.turns import Turns


class Listener(Protocol):
    """What a wire needs of its connection, and tells it; always on the event loop."""

    id: str
    app: App
    settings: Settings
    output: Output
    turns: Turns

    @property
    def encoder(self) -> MessageSink:
        """What encodes its messages."""

    def writable(self) -> None:
        """The server has read on: what was handed on has been taken, and more may be."""

    def server_closing(self) -> None:
        """Both Close frames are on their way, the server's first or in answer to ours."""

    def failed(self, code: ConnectionErrorCode, message: str) -> None:
        """The connection has failed; the wire has sent its Close frame and listens no more."""

    def lost(self, why: str) -> None:
        """The TCP connection is down, and everything received before has been told."""

    def lost_while_paused(self) -> None:
        """The TCP connection is down, and what came before has to wait: nothing more is sent."""

    def ponged(self, answered: Answered) -> None:
        """A Ping has been answered; it may be one of the connection's own."""

    def faulted(self, exc: Exception) -> None:
        """An exception that nobody has foreseen: the connection ends at once, all others go on."""
