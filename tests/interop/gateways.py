"""What stands before a server: gateways, which speak TLS and offer HTTP/2, and proxies."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interop.needs import Debian, Need, OwnHosts, find

BEHIND_PROXY: Final = "server.test"
"""A name that proxies find on the loopback, where the plugin itself would ask none of them."""


@dataclass(frozen=True)
class Gateway:
    """A program in front of a server.

    Args:
        name: what it is called in the table.
        needs: what it needs, first itself.
        file: what its configuration file is called.
        configuration: the content, with `{port}` to listen on, `{server}` the server's port,
            `{certificate}` with its key, and `{folder}` to write to.
        command: its command line, given the path of that file.

    """

    name: str
    needs: tuple[Need, ...]
    file: str
    configuration: str
    command: Callable[[Path], list[str]]


@dataclass(frozen=True)
class Proxy(Gateway):
    """A program that the plugin asks for a connection to :data:`BEHIND_PROXY`.

    Args:
        url: what ``--proxy`` is given, with `{port}`.

    """

    url: str


def _with_own_hosts(file: Path, *command: str) -> list[str]:
    hosts = file.with_name("hosts")
    hosts.write_text(f"127.0.0.1 localhost {BEHIND_PROXY}\n")
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    return [find("unshare", "util-linux"), "--mount", "sh", "-c", script, str(hosts), *command]


NGINX: Final = Gateway(
    "nginx",
    (Debian("nginx", "nginx-light", "-v"),),
    "nginx.conf",
    """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        location / {{
            proxy_pass http://127.0.0.1:{server};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header Host $host;
        }}
    }}
}}
""",
    lambda file: [find("nginx", "nginx-light"), "-e", "stderr", "-c", str(file)],
)
HAPROXY: Final = Gateway(
    "haproxy",
    (Debian("haproxy", "haproxy", "-v"),),
    "haproxy.cfg",
    """\
defaults
    mode http
    timeout connect 20s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend gateway
    bind 127.0.0.1:{port} ssl crt {certificate} alpn h2,http/1.1
    default_backend servers
backend servers
    server ws 127.0.0.1:{server}
""",
    lambda file: [find("haproxy", "haproxy"), "-db", "-f", str(file)],
)
CADDY: Final = Gateway(
    "Caddy",
    (Debian("caddy", "caddy", "version"),),
    "Caddyfile",
    """\
{{
    admin off
    auto_https off
    servers {{
        protocols h1 h2
    }}
}}
https://localhost:{port} {{
    bind 127.0.0.1
    tls {certificate} {certificate}
    reverse_proxy 127.0.0.1:{server}
}}
""",
    lambda file: [find("caddy", "caddy"), "run", "--adapter", "caddyfile", "--config", str(file)],
)
GATEWAYS: Final = (NGINX, HAPROXY, CADDY)

TINYPROXY: Final = Proxy(
    "tinyproxy, CONNECT with a password",
    (Debian("tinyproxy", "tinyproxy", "-v"), OwnHosts()),
    "tinyproxy.conf",
    """\
Listen 127.0.0.1
Port {port}
Timeout 60
LogFile "{folder}/tinyproxy.log"
PidFile "{folder}/tinyproxy.pid"
Allow 127.0.0.1
BasicAuth alice s3cret
""",
    lambda file: _with_own_hosts(file, find("tinyproxy", "tinyproxy"), "-d", "-c", str(file)),
    "http://alice:s3cret@127.0.0.1:{port}",
)
DANTE: Final = Proxy(
    "dante, SOCKS5",
    (Debian("danted", "dante-server", "-v"), OwnHosts()),
    "danted.conf",
    """\
logoutput: stderr
internal: 127.0.0.1 port = {port}
external: 127.0.0.1
clientmethod: none
socksmethod: none
user.privileged: root
user.unprivileged: root
client pass {{
    from: 127.0.0.0/8 to: 0.0.0.0/0
}}
socks pass {{
    from: 127.0.0.0/8 to: 0.0.0.0/0
}}
""",
    lambda file: _with_own_hosts(
        file, find("danted", "dante-server"), "-f", str(file), "-p", str(file.with_suffix(".pid"))
    ),
    "socks5h://127.0.0.1:{port}",
)
