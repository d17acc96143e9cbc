"""Conversations as text: written as they happen, and played to a host."""
