"""Whole runs of the plugin on virtual time, each of them played again by its number.

The real session, manager, connections, network rooms and output run on an event loop whose
selector asks a simulated world instead of the operating system. See README.md beside this file.
"""
