"""wsplugin: a child process that gives a native application WebSockets over JSON lines.

Run as a command it serves its own stdin and stdout (``cli.py``). A host that cannot start a
process runs it on a thread with :func:`serve`.
"""

from typing import TYPE_CHECKING

from wsplugin.version import __version__

if TYPE_CHECKING:
    from wsplugin.settings import Settings

__all__ = ["Settings", "__version__", "serve"]


def serve(stdin: int, stdout: int, settings: "Settings | None" = None) -> int:
    """Serve one host over two descriptors until its stream of lines ends; return the exit status.

    The same as the process, on the calling thread: it blocks, leaves the process's own streams
    and signal handlers alone, and may run several times, at once too. To end it, end the stream.
    It logs as ``wsplugin``, to whatever handlers the process has, and nothing that is secret; the
    records of its libraries reach none of them.

    Args:
        stdin: descriptor to read the host's lines from: a pipe or a socket.
        stdout: descriptor to write lines to the host to; both stay open.
        settings: limits and policy, by default those of the command line without options. Wrong
            ones cannot be made: they are a ``ValueError`` there.

    Returns:
        0, or 1 if the host has closed its end of `stdout`.

    """
    from wsplugin.session import serve as serve_session
    from wsplugin.settings import Settings

    return serve_session(stdin, stdout, settings or Settings())


def __getattr__(name: str) -> object:
    # Imported on demand: the command's first lines run before msgspec is loaded.
    if name == "Settings":
        from wsplugin.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
