"""The plugin with servers and proxies that others wrote. See README.md beside this file."""
