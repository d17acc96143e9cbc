"""Targets for a fuzzer that is guided by coverage. See README.md beside this file."""
