"""What servers do: the tables from which a seed draws, and the plain ones of scenarios.

Every function is a course of :mod:`simulation.servers`.
"""

import random
from collections.abc import Callable
from typing import Final

from harness import PING, PONG, frame
from simulation.servers import UNTIL_THE_REQUEST, Behaviour, Course, Server

SOON: Final = (0.0, 0.0, 0.001, 0.02, 0.3)

# --- opening handshakes -------------------------------------------------------------------------


def request(server: Server) -> Course:
    """Wait for the request."""
    if not server.request:
        yield UNTIL_THE_REQUEST


def accept(server: Server) -> Course:
    """Accept, at once."""
    yield from request(server)
    server.accept()


def accept_somehow(server: Server) -> Course:
    """Accept, sooner or later, sometimes in pieces or with messages behind it."""
    yield from request(server)
    yield server.random.choice((*SOON, 1.5))
    count = server.random.choice((0, 0, 0, 1, 4))
    server.accept(lambda: server.messages(count), pieces=server.random.choice((1, 1, 1, 7)))


def accept_and_close(server: Server) -> Course:
    """Accept, and close in the same write."""
    yield from request(server)

    def glued() -> bytes:
        messages = server.messages(server.random.randrange(3))
        return messages + server.close(4001, "glued", ahead=len(messages))

    server.accept(glued)


def accept_and_break(server: Server) -> Course:
    """Accept, and break the rules in the same write."""
    yield from request(server)
    server.accept(lambda: server.messages(1) + server.violation())


def accept_and_end(server: Server) -> Course:
    """Accept, and end or reset TCP behind it."""
    yield from request(server)
    server.accept(lambda: server.messages(server.random.randrange(3)))
    server.random.choice((server.finish, server.reset))()


def refuse(server: Server) -> Course:
    """Answer with another status, and stay or go."""
    yield from request(server)
    yield server.random.choice(SOON)
    status = server.random.choice(("403 No", "302 Found\r\nLocation: /x", "500 Oops", "200 OK"))
    body = server.random.choice((b"", b"no", b"x" * 3000))
    server.peer.send(f"HTTP/1.1 {status}\r\nX-Why: because\r\n\r\n".encode() + body)
    if server.random.random() < 0.5:
        server.finish()


def garbage(server: Server) -> Course:
    """Answer with what is no handshake, in full or in part, and end it or do not."""
    yield from request(server)
    answers = [
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgr",
        b"H",
        b"\x81\x02hi",
        b"\r\n" * 9,
        b"SSH-2.0-x\r\n\r\n",
        server.response().replace(b"Accept: ", b"Accept: x"),
        server.response("Sec-WebSocket-Protocol: unheard-of"),
        server.response("Sec-WebSocket-Extensions: unheard-of"),
    ]
    server.peer.send(server.random.choice(answers))
    yield server.random.choice(SOON)
    server.random.choice((server.finish, server.reset, lambda: None))()


def silence(server: Server) -> Course:
    """Never answer."""
    yield UNTIL_THE_REQUEST


def end_at_once(server: Server) -> Course:
    """End or reset TCP, before or after the request."""
    if server.random.random() < 0.5:
        yield from request(server)
    server.random.choice((server.finish, server.reset))()


# --- open connections ---------------------------------------------------------------------------


def nothing(server: Server) -> Course:
    """Do nothing: the closing handshake comes from the plugin, or never."""
    yield from ()


def send_messages(server: Server) -> Course:
    """Send some messages in one write."""
    server.peer.send(server.messages(server.random.randint(1, 5)))
    yield 0.0


def flood(server: Server) -> Course:
    """Send many messages in one write, or in several."""
    for _ in range(server.random.choice((1, 1, 4))):
        server.peer.send(server.messages(server.random.randint(5, 12)))
        yield server.random.choice((0.0, 0.01))


def send_fragments(server: Server) -> Course:
    """Send a message in fragments, sometimes with control frames between them."""
    between = server.random.choice((b"", frame(PING, b"between"), frame(PONG)))
    server.peer.send(server.message(server.random.randint(2, 4), between))
    server.pinged = None  # those between fragments are answered, too, and not remembered
    yield 0.0


def dribble(server: Server) -> Course:
    """Send a message in small pieces, slowly."""
    down = server.peer.link.down
    data = server.message()
    segment, gap = down.segment, down.gap
    down.segment, down.gap = max(1, len(data) // 8), server.random.choice((0.001, 0.1))
    server.peer.send(data)
    down.segment, down.gap = segment, gap
    yield 0.0


def send_pings(server: Server) -> Course:
    """Send Pings, and Pongs that nobody asked for."""
    for _ in range(server.random.randint(1, 3)):
        server.peer.send(server.ping() + frame(PONG, b"?"))
    yield 0.0


def stop_reading(server: Server) -> Course:
    """Read nothing for a while."""
    server.peer.pause()
    yield server.random.choice((0.05, 0.5, 0.5, 3.0))
    server.peer.resume()


def stall(server: Server) -> Course:
    """Let the network hold back what is on its way, one way or the other."""
    link = server.peer.link
    stream = server.random.choice((link.up, link.down))
    stream.stalled_until = server.world.now + server.random.choice((0.1, 1.0))
    yield 0.0


def wait(server: Server) -> Course:
    """Let some time pass."""
    yield server.random.choice((0.01, 0.2, 1.0, 4.0))


DOINGS: Final[list[Callable[[Server], Course]]] = [
    *[send_messages] * 3,
    *[flood] * 2,
    send_fragments,
    send_pings,
    dribble,
    stop_reading,
    stall,
    *[wait] * 3,
]


def close(server: Server) -> Course:
    """Close, and wait for the plugin's Close frame; end TCP with it."""
    code = server.random.choice((None, 1000, 1001, 4000))
    messages = server.messages(server.random.randrange(2))
    reason = "" if code is None else server.random.choice(("", "bye é"))
    server.peer.send(messages + server.close(code, reason, ahead=len(messages)))
    yield 0.0


def close_and_end(server: Server) -> Course:
    """Close, and end TCP without waiting for an answer."""
    yield from close(server)
    server.random.choice((server.finish, server.reset))()


def close_and_stop_reading(server: Server) -> Course:
    """Close, and take no answer."""
    server.peer.pause()
    yield from close(server)


def end_tcp(server: Server) -> Course:
    """End TCP without a word, in this direction or in both."""
    server.finish()
    if server.random.random() < 0.3:
        server.peer.pause()
    yield 0.0


def reset_tcp(server: Server) -> Course:
    """Reset TCP."""
    server.reset()
    yield 0.0


def break_rules(server: Server) -> Course:
    """Send what no server may."""
    server.peer.send(server.messages(server.random.randrange(2)) + server.violation())
    yield 0.0


def vanish(server: Server) -> Course:
    """Let the network drop everything from now on."""
    server.peer.link.note("the network drops everything from now on")
    server.peer.link.silent = True
    yield 0.0


def stop_reading_for_ever(server: Server) -> Course:
    """Read nothing any more."""
    server.peer.pause()
    yield 0.0


ENDINGS: Final[list[Callable[[Server], Course]]] = [
    close,
    close,
    close_and_end,
    close_and_stop_reading,
    end_tcp,
    reset_tcp,
    break_rules,
    vanish,
    stop_reading_for_ever,
    *[nothing] * 6,
]


def live(server: Server) -> Course:
    """Do a few things, then end it or do not."""
    for _ in range(server.random.choice((0, 1, 3, 6, 12))):
        if not server.speaks or server.close_received is not None:
            return
        yield from server.random.choice(DOINGS)(server)
    if server.speaks and server.close_received is None:
        yield from server.random.choice(ENDINGS)(server)


# --- closing handshakes that the plugin starts -------------------------------------------------


def answer(server: Server) -> Course:
    """Answer and end TCP, as RFC 6455 has it."""
    server.peer.send(server.close(1000))
    server.peer.finish()
    yield 0.0


def answer_late(server: Server) -> Course:
    """Answer after a while, sometimes after the plugin's patience."""
    yield server.random.choice((0.01, 0.3, 0.9, 2.5))
    messages = server.messages(server.random.randrange(3))
    server.peer.send(messages + server.close(1000, ahead=len(messages)))
    server.peer.finish()


def answer_and_stay(server: Server) -> Course:
    """Answer and leave the end of TCP to the plugin."""
    server.peer.send(server.close(None))
    yield 0.0


def answer_and_go_on(server: Server) -> Course:
    """Answer, and send what may not follow a Close frame."""
    server.peer.send(server.close(1000) + frame(1, b"late") + b"\xff\xff")
    yield 0.0


def end_instead(server: Server) -> Course:
    """End or reset TCP in place of an answer."""
    yield server.random.choice(SOON)
    server.random.choice((server.finish, server.reset))()


CLOSINGS: Final[list[Callable[[Server], Course]]] = [
    *[answer] * 5,
    answer_late,
    answer_late,
    answer_and_stay,
    answer_and_go_on,
    end_instead,
    nothing,
]

OPENINGS: Final[list[Callable[[Server], Course]]] = [
    *[accept] * 8,
    *[accept_somehow] * 14,
    accept_and_close,
    accept_and_break,
    accept_and_end,
    refuse,
    garbage,
    silence,
    end_at_once,
]


def drawn(draw: random.Random) -> Behaviour:
    """Draw what a server does."""
    return Behaviour(
        draw.choice(OPENINGS),
        draw.choice((live, live, live, nothing)),
        draw.choice(CLOSINGS),
        echoes=draw.random() < 0.4,
        pongs=draw.choice((1.0, 1.0, 1.0, 0.5, 0.0)),
        compresses=draw.random() < 0.3,
        lingers=draw.random() < 0.2,
    )
