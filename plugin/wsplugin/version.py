"""The version of the plugin, for whoever tells it."""

__version__ = "1.1.0"
