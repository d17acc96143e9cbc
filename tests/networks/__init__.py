"""The plugin on bad networks, each of them built by its test. See README.md beside this file."""
