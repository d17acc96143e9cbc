"""Certificates of the tests' own."""

import ssl
from pathlib import Path
from typing import Any

import trustme


class Authority:
    """A certificate authority with its file for ``--ca-file``."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.file = str(directory / "ca.pem")
        self.ca.cert_pem.write_to_path(self.file)

    def context(self, *names: str, **options: Any) -> ssl.SSLContext:
        """Return what a server with a certificate for `names` needs."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(*names, **options).configure_cert(context)
        return context
