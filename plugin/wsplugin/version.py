"""The version of the plugin, for whoever tells it."""

__version__ = "1.0.0"
