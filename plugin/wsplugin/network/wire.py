"""One open WebSocket over its transport: the glue between asyncio and the rooms without I/O.

What bytes mean is decided in ``frames.py``, what waits where in ``inbox.py`` and ``outbox.py``,
when a server is dead in ``keepalive.py``; what any of it means to the host, in ``connection.py``.
"""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from websockets.client import ClientProtocol
from websockets.frames import TEXT, CloseCode

from wsplugin.log import fault
from wsplugin.messages import NO_CODE
from wsplugin.network.frames import ALL, Frames, Taken, Violation, frame
from wsplugin.network.heartbeat import Heartbeat
from wsplugin.network.inbox import Inbox
from wsplugin.network.keepalive import Keepalive
from wsplugin.network.outbox import Pieces
from wsplugin.network.progress import Meter
from wsplugin.network.reading import Loss, Reading
from wsplugin.network.words import describe
from wsplugin.outcome import Closing
from wsplugin.output import BATCH
from wsplugin.turns import TURN, TURN_SIZE

if TYPE_CHECKING:
    from wsplugin.network.listener import Listener

logger = logging.getLogger(__name__)

WRITE_HIGH_WATER: Final = 65_536
ON: Final = Reading.ON  # an attribute of an enumeration costs more than a name
# What OpenSSL may have deciphered and not handed out: a record (RFC 8446 section 5.1).
TLS_RECORD: Final = 16_384


class Wire(asyncio.BufferedProtocol):
    """Made when the server has accepted the opening handshake; :meth:`start` begins to receive.

    Args:
        listener: the connection.
        transport: TCP, or TLS over it; becomes the wire's.
        protocol: the library's, open, with the extensions negotiated.
        paused: whether the transport has said that it holds too much.

    """

    def __init__(
        self,
        listener: "Listener",
        transport: asyncio.Transport,
        protocol: ClientProtocol,
        *,
        paused: bool,
    ) -> None:
        settings = listener.settings
        self.paused = paused
        """Whether the transport holds so much that nothing should be added."""
        self._listener = listener
        self._transport = transport
        self._protocol = protocol
        self._secure = transport.get_extra_info("sslcontext") is not None
        self._loop = asyncio.get_running_loop()
        self._output = listener.output
        self._app = listener.app
        self._turns = listener.turns
        self._apps = listener.turns.apps
        self._reading = Reading.ON
        self._inbox = Inbox()
        self._frames = Frames(protocol, settings.max_message_size, listener.encoder)
        self._batched = 0
        self._pieces = Pieces(WRITE_HIGH_WATER)
        self._pong = b""
        self._close_has_left = False
        self._cut_short = False
        self._loss: Loss | None = None
        self._meter = Meter(transport, self._pieces)
        self._heartbeat = Heartbeat(
            Keepalive(settings.ping_interval, settings.ping_timeout, self._loop.time()),
            self._meter,
            protocol,
            self.flush,
            self._give_up,
            self._break,
        )
        self._end: float = float("inf")
        transport.set_protocol(self)
        transport.set_write_buffer_limits(WRITE_HIGH_WATER)

    def start(self, rest: bytes) -> None:
        """Begin with `rest`, the bytes that came with the response's head."""
        self._heartbeat.start()
        self._inbox.put(rest)
        self._receive()

    # --- sending ---

    def send(self, opcode: int, payload: bytes | bytearray) -> None:
        """Batch one message; :meth:`flush` writes. Only before :meth:`close`."""
        if not self._protocol.extensions:
            self._protocol.writes.append(frame(opcode, payload))
        elif opcode == TEXT:
            self._protocol.send_text(payload)
        else:
            self._protocol.send_binary(payload)
        self._batched += len(payload)
        if self._batched > WRITE_HIGH_WATER:
            self.flush()

    def flush(self) -> None:
        """Write what is batched, in one go."""
        self._batched = 0
        writes = self._protocol.data_to_send()
        if writes:
            # Not writelines(): on Python 3.12.0 to 3.12.3 it forgets to call pause_writing().
            self._write(writes[0] if len(writes) == 1 else b"".join(writes))

    def _write(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        if not self._secure:
            self._meter.written += len(data)
            self._transport.write(data)
            return
        # asyncio's TLS transport does not count what its TCP transport holds, and hands on all it
        # has as soon as that one takes more: so it gets little at a time.
        self._pieces.push(data)
        self._write_pieces()

    def _write_pieces(self) -> None:
        # From the end of the server's stream on, asyncio drops what is written. So all must have
        # been when its Close frame has come, or when the end could come unseen. Not while the
        # connection is paused, since the host may send on: all of it would have left our count.
        last = self._reading is not ON and self._reading is not Reading.PAUSED
        while (
            self._pieces.waiting and (last or not self.paused) and not self._transport.is_closing()
        ):
            piece = self._pieces.pop()
            self._meter.written += len(piece)
            self._transport.write(piece)

    @property
    def waiting(self) -> int:
        """How many bytes wait to be sent; over TLS without what has been encrypted already."""
        return self._batched + self._pieces.waiting + self._transport.get_write_buffer_size()

    def ping(self, timeout: float) -> bytes:
        """Send a Ping between messages, which has `timeout` seconds; return its payload."""
        return self._heartbeat.ping(timeout)

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake (RFC 6455 section 7.1.2); 1005 sends no code."""
        self._heartbeat.stop()
        self._protocol.send_close(None if code == NO_CODE else code, reason)
        self.flush()
        self._end = self._meter.end()
        self.watch_close()

    def watch_close(self) -> bool:
        """Tell whether our Close frame, the last there is to send, has left; over TLS ask again."""
        if self._meter.has_left:  # or has been dropped, where asyncio is closing already
            self._close_has_left |= not self._transport.is_closing()
        else:
            # At 0 asyncio's TLS pauses us though it holds nothing, and never lets us go on.
            self._transport.set_write_buffer_limits(int(self._secure), 0)
        return self._close_has_left

    def pause_writing(self) -> None:
        """The server is slow to read (``asyncio.BaseProtocol``)."""
        self.paused = True

    def resume_writing(self) -> None:
        """The server has read on (``asyncio.BaseProtocol``)."""
        self.paused = False
        try:
            self._write_pieces()
            self._heartbeat.left()
            if self._pong and not self._pieces.waiting:
                pong, self._pong = self._pong, b""
                self._write(pong)
            if self._protocol.close_sent is not None and self._meter.has_left:
                self._close_has_left = True
            if not self._pieces.waiting and not self.paused:
                self._listener.writable()
        except Exception as exc:  # noqa: BLE001 - the one net, see _break
            # Not at once: a transport that is cut while it calls us tells of its end twice.
            self._loop.call_soon(self._break, exc)

    # --- receiving ---

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return room for the next read (``asyncio.BufferedProtocol``)."""
        try:
            # At the end of a TLS stream asyncio reads once: all that is left must have room.
            return self._inbox.room(sizehint + TLS_RECORD if self._secure else 1)
        except Exception as exc:  # noqa: BLE001 - the one net, see _break
            self._break(exc)
            return memoryview(bytearray(1))  # none at all would be an error of asyncio's

    def buffer_updated(self, nbytes: int) -> None:
        """Take `nbytes` more (``asyncio.BufferedProtocol``)."""
        try:
            self._inbox.filled(nbytes)
            self._meter.read += nbytes
            if len(self._apps) > 1 and self._reading is ON and self._turns.is_over(self._app):
                self.wait_for_turn()
                return
        except Exception as exc:  # noqa: BLE001 - the one net, see _break
            self._break(exc)
        self._receive()

    def _receive(self) -> None:
        """Take what can be taken out of the inbox, as long as the host keeps up."""
        if self._reading is Reading.PAUSED:
            return  # a TLS stream or its loss may bring something still
        try:
            self._output.cork()
            try:
                others_turn = self._take()
            except Violation as violation:
                others_turn = False
                self._fail(violation)
            except Exception:
                self._output.cut_half_line()  # before it goes out
                raise
            finally:
                self._output.uncork()
            # Now that it has gone out: each server has its one read, whoever filled the output.
            if others_turn or self._output.full or self._reading is not ON or self._loss:
                self._go_on_reading(others_turn=others_turn)
        except Exception as exc:  # noqa: BLE001 - the one net, see _break
            self._break(exc)

    def _go_on_reading(self, *, others_turn: bool) -> None:
        """Read on, or not; tell of a loss once there is nothing more to be read."""
        if self._reading is Reading.OVER:
            self._inbox.clear()
        elif others_turn:
            self.wait_for_turn()
            return
        elif self._output.full:
            self._hold(Reading.BEHIND)
            return
        elif self._reading is not Reading.ON:
            self._release()
        if self._loss is not None and not self._read_rest():
            self._finish()

    def _take(self) -> bool:
        """Take frames; return whether it is others' turn now."""
        # With one app there is nothing to be counted: a round trip takes 2 % less for that.
        if len(self._apps) < 2:
            return self._take_until(self._loop.time() + TURN, -1)
        left = self._turns.left(self._app)
        before, size = self._loop.time(), self._inbox.size
        try:
            return self._take_until(before + TURN * left, size - int(TURN_SIZE * left))
        finally:
            if taken := size - self._inbox.size:
                self._turns.use(self._app, self._loop.time() - before, taken)

    def _take_until(self, turn_end: float, rest: int) -> bool:
        output, frames, inbox = self._output, self._frames, self._inbox
        limit = BATCH
        while self._reading is not Reading.OVER and not output.full:
            if rest >= 0:
                # Lines are longer than frames, so no more than one message goes beyond the turn.
                limit = min(BATCH, len(output.batch) + inbox.size - rest)
            taken = frames.take(inbox, output.batch, limit, wanted=not output.gone)
            if taken is ALL:
                return False
            match taken:
                case Taken.PING if self.paused:
                    # RFC 6455 section 5.5.3: one Pong for the latest Ping is enough. A server that
                    # sends Pings and reads nothing gets no more of our memory than that.
                    self._pong = b"".join(self._protocol.data_to_send())
                case Taken.PING:
                    self.flush()
                case Taken.PONG:
                    for answered in self._heartbeat.ponged(frames.pong):
                        self._listener.ponged(answered)
                case Taken.CLOSE:
                    self._stop_listening()
                    self.flush()
                    self._end = min(self._end, self._meter.end())
                    self._listener.server_closing()
                    return False
            if len(output.batch) > BATCH:
                output.flush()
            if self._loop.time() > turn_end or inbox.size < rest:
                return True
        return False

    # --- reading and not reading ---

    def _hold(self, reading: Reading) -> None:
        """Stop reading from the server; what has been read stays in the inbox."""
        if self._reading is Reading.ON:
            self._reading = reading
            self._write_pieces()
            self._transport.pause_reading()
            self._heartbeat.hold()
        else:
            self._reading = reading

    def pause(self) -> None:
        """Take nothing until :meth:`unpause`, whatever has been read already."""
        if self._reading is not Reading.OVER:
            self._hold(Reading.PAUSED)
            if self._loss is not None:
                self._listener.lost_while_paused()

    def unpause(self) -> None:
        """Take again what comes, in this connection's turn."""
        if self._reading is Reading.PAUSED:
            self.wait_for_turn()

    @property
    def is_lost(self) -> bool:
        """Whether the TCP connection is down, though that cannot be told yet."""
        return self._loss is not None

    def wait_for_turn(self) -> None:
        """Let others have their turn first."""
        self._hold(Reading.YIELDING)
        self._turns.wait(self._app, self._go_on)

    def _release(self) -> None:
        """Read on."""
        self._reading = Reading.ON
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._heartbeat.go_on()

    def reads_on(self) -> bool:
        """Tell whether more has been read since it was asked last, or waits to be taken."""
        return self._meter.has_read() or self._reading.is_held

    @property
    def is_behind(self) -> bool:
        """Whether messages wait for the host to catch up."""
        return self._reading is Reading.BEHIND

    def resume(self) -> None:
        """Go on after the host was behind: take what is left in the inbox, then read on."""
        if self._reading is Reading.BEHIND:
            self._receive()

    def _go_on(self) -> None:
        if self._reading is Reading.YIELDING:
            self._receive()

    def _stop_listening(self) -> None:
        """Drop what comes from now on, but go on reading: the server's end must be seen."""
        held = self._reading.is_held
        self._heartbeat.stop()
        self._reading = Reading.OVER
        if held and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- the end ---

    def _fail(self, violation: Violation) -> None:
        """Fail the connection (RFC 6455 section 7.1.7): send a Close frame, listen no more."""
        self._stop_listening()
        self._protocol.fail(violation.close_code, violation.reason)
        self.flush()
        self._listener.failed(violation.code, violation.words)

    def _give_up(self) -> None:
        self._fail(
            Violation(
                CloseCode.INTERNAL_ERROR,
                "keepalive ping timeout",
                "ping-timeout",
                "the server stopped answering pings",
            )
        )

    def _break(self, exc: Exception) -> None:
        """End the connection after what nobody has foreseen, in whatever state it is."""
        try:
            self._stop_listening()
            self._protocol.fail(CloseCode.INTERNAL_ERROR, "internal error")
            self.flush()
        except Exception as again:  # noqa: BLE001 - the server has to do without a Close frame
            logger.error("%s: no Close frame: %s", self._listener.id, fault(again))
        self._listener.faulted(exc)

    def abort(self) -> None:
        """Cut the TCP connection; ``lost`` follows."""
        if self._loss is None:
            # Also where asyncio is closing already, and still has something to write.
            self._cut_short = not self._close_has_left
        self._stop_listening()
        self._inbox.clear()
        self._transport.abort()
        if self._loss is not None:
            # It was down already, and waited for the host to take what it had brought.
            self._loop.call_soon(self._receive)

    @property
    def taken(self) -> float:
        """How many bytes the server has taken so far, up to the end of our Close frame.

        Not the Pongs behind it: a server could ask for them for ever.
        """
        return min(self._meter.look().taken, self._end)

    @property
    def closing(self) -> Closing | None:
        """The closing handshake, if both Close frames were seen and ours has left."""
        sent, received = self._protocol.close_sent, self._protocol.close_rcvd
        if sent is None or received is None or self._cut_short:
            return None
        # Ours has not left, and the server has gone: it has closed, and we have not.
        if self._protocol.close_rcvd_then_sent or not self._close_has_left:
            return Closing(int(received.code), received.reason, by_server=True)
        return Closing(int(sent.code), sent.reason, by_server=False)

    @property
    def close_received(self) -> bool:
        """Whether the server's Close frame has come."""
        return self._protocol.close_rcvd is not None

    def eof_received(self) -> None:
        """Let the transport close itself; ``connection_lost`` follows."""
        try:
            if self._protocol.close_rcvd is None:
                # Without waiting for a server that does not read what is still to be written.
                self._transport.abort()
        except Exception as exc:  # noqa: BLE001 - the one net, see _break
            self._break(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP is down; what it has brought may still have to wait for the host."""
        rest = None
        try:
            if exc is not None and not self._secure:
                # When a write fails, asyncio drops what the server had sent before it went.
                with contextlib.suppress(OSError):  # no descriptor is left
                    rest = self._transport.get_extra_info("socket").dup()
            self._loss = Loss(exc, rest)
            self._heartbeat.stop()
            self._pieces.clear()
            if self._reading is Reading.PAUSED:
                self._listener.lost_while_paused()
        except Exception as bug:  # noqa: BLE001 - the one net, see _break
            self._break(bug)
        self._receive()

    def _read_rest(self) -> bool:
        """Read on from a lost connection; False if there is nothing more."""
        assert self._loss
        rest = self._loss.rest
        if rest is None:
            return False
        try:
            over = self._reading is Reading.OVER
            count = 0 if over else rest.recv_into(self.get_buffer(-1))
        except OSError:
            count = 0  # the loss itself
        if count:
            self._inbox.filled(count)
            self._loop.call_soon(self._receive)
            return True
        rest.close()
        return False

    def _finish(self) -> None:
        """Tell of the loss, once everything received before it has been taken."""
        assert self._loss
        exc, self._loss = self._loss.exc, None
        self._reading = Reading.OVER
        # asyncio says nothing of the end of a stream, and little of the end of a TLS stream.
        if isinstance(exc, OSError) and exc.errno:
            reason = describe(exc)
        else:
            reason = "it ended without a Close frame"
        self._listener.lost(f"the connection was lost: {reason}")

    def release(self) -> None:
        """Give back memory, when the connection is done with."""
        self._heartbeat.release()
        self._reading = Reading.OVER
        if self._loss is not None and self._loss.rest is not None:
            self._loss.rest.close()
        self._loss = None
        self._inbox.release()
        self._frames.release()
        # asyncio's TLS keeps our methods, and we its transport with a buffer of a quarter of a MiB.
        self._transport.set_protocol(asyncio.BufferedProtocol())
