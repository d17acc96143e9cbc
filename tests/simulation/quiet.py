"""What must hold whenever the plugin sleeps: that it has nothing left to do.

A wake-up that is lost shows here at once, and not only when some timeout covers it up.
"""

from typing import Any

from simulation.bounds import Bounds
from simulation.host import Host
from simulation.network import Network
from simulation.script import Script
from simulation.servers import Server
from simulation.world import Violation


class Quiet:
    """Checks one run whenever its process sleeps.

    Args:
        session: the plugin's; set when it exists.

    """

    def __init__(self, host: Host, network: Network, script: Script, bounds: Bounds) -> None:
        self.world = host.world
        self.host = host
        self.network = network
        self.script = script
        self.bounds = bounds
        self.session: Any = None
        self.told: dict[str, int] = {}
        """How many messages of each connection the plugin has told."""
        self.held_back = 0
        """How many times a pause had held back something when the process slept."""
        self.failing: set[str] = set()
        """Connections that the plugin has given up, and need not listen to."""

    def check(self) -> None:
        """Look at everything."""
        if self.session is None or self.session._output.gone:
            return
        try:
            self._check()
        except Violation as violation:
            self.world.fail(violation)

    def _check(self) -> None:
        stdout = self.host.stdout
        output = self.session._output
        if output.batch:
            raise Violation(f"lines wait that nobody will write: {bytes(output.batch[:200])!r}")
        self.bounds.asleep()
        if stdout.holding:
            return
        if output.full:
            raise Violation("the output stays full, and the host has read all")
        if self.host.stdin.neglected:
            raise Violation("nobody reads stdin")
        for id, server in self.network.served():
            self._check_link(id, server)
        for request in self.host.checker.pending.values():
            if request["id"] in self.host.taken:
                self._check_request(request)

    def _check_link(self, id: str, server: Server) -> None:
        """Everything that has come must have been read, and all messages in it told."""
        link = server.peer.link
        if not server.opened or link.silent:
            return
        if id not in self.host.checker.events or self.host.checker.closed(id):
            return
        if self.bounds.dead_from(self.bounds.lives[id]) <= self.world.now:
            self.failing.add(id)
        if not self.bounds.is_read(self.bounds.lives[id]):
            self.held_back += bool(link.down.unread)
            return
        if link.down.unread:
            raise Violation(f"{id}: nobody reads what the server has sent")
        if server.broke or id in self.failing:
            return
        consumed = link.down.acknowledged - len(link.down.unread)
        due = server.due(consumed)
        told = self.told.get(id, 0)
        if due > told:
            raise Violation(f"{id}: {due - told} messages were read and not told")
        if not server.well:
            return
        done = len(self.script.done.get(id, ()))
        if done > len(server.received):
            raise Violation(f"{id}: {done - len(server.received)} answered messages have not left")
        if server.pinged and server.pinged[1] <= consumed and server.pinged[0] != server.ponged:
            raise Violation(f"{id}: {server.pinged} was answered with {server.ponged!r}")

    def _check_request(self, request: dict[str, Any]) -> None:
        """A request must have been answered unless something is still to happen for it."""
        match request["action"]:
            case "websocket-send":
                self._check_send(request)
            case "app-background":
                if not self.bounds.apps.is_waited_for(request):
                    raise Violation(f"{request} waits for nobody")
            case "websocket-ping":
                self._check_ping(request)
            case _:
                raise Violation(f"{request} has not been answered")

    def _check_send(self, request: dict[str, Any]) -> None:
        id = request["payload"]["id"]
        events = self.host.checker.events.get(id, [])
        if not any(name == "open" for name, _ in events) or id in self.failing:
            return
        if all(server.well for server in self.network.of(id)):
            raise Violation(f"{request} waits, and the server has read everything")

    def _check_ping(self, request: dict[str, Any]) -> None:
        """A ping must have been answered if its Pong must have been read."""
        id = request["payload"]["id"]
        life = self.bounds.lives.get(id)
        if life is None:
            raise Violation(f"{request} waits for nobody")
        if id in self.failing or not self.bounds.is_read(life):
            return
        for server in self.network.servers.get(life.port, []):
            if server.well and server.answered and server.peer.all_sent:
                raise Violation(f"{request} waits, and the server has answered it or a later one")
