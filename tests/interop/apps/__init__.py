"""Echo servers, each a program that understands the words of :mod:`interop.apps.words`."""
