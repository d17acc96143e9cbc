"""wsplugin: a child process that gives a native application WebSockets over JSON lines."""

__version__ = "1.0.0"
