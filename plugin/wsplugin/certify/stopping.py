"""Situations of the end: in order where the plugin lets it, in time where it does not."""

import time
from typing import Final

from wsplugin.certify.fake import Fake
from wsplugin.certify.script import Closed, Done, Ended, Invalid, Message, Refused
from wsplugin.certify.situation import situation
from wsplugin.certify.stage import FIRST_START, Stage
from wsplugin.certify.starting import fails
from wsplugin.certify.watch import Broken

STOP_LIMIT: Final = 4.0
"""Seconds for a stop that needs no kill: the two that it may take, and some for a busy machine."""
FLOOD_LIMIT: Final = 20.0
"""The same behind some megabytes."""
KILL_LIMIT: Final = 9.0
"""The same as STOP_LIMIT with a kill, which comes after five."""


async def stopped(stage: Stage, limit: float = STOP_LIMIT) -> int:
    """Have the host stopped within so many seconds; return the plugin's exit status."""
    begun = time.monotonic()
    status = await stage.stop(limit + 5)
    if (seconds := time.monotonic() - begun) > limit:
        raise Broken(f"the outcome of stop within {limit:g} s", f"it after {seconds:.1f} s")
    return status


async def stopped_well(stage: Stage, limit: float = STOP_LIMIT) -> None:
    """Have the host stopped, with status 0."""
    if status := await stopped(stage, limit):
        raise Broken("status 0 when stopped", f"status {status}")


@situation(seconds=2)
async def stop_with_a_silent_server(stage: Stage) -> None:
    """The plugin has 1.5 s to end by itself, and all that it says meanwhile is heard."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call, ping = await stage.ask(fake, "ping", to="a")

    async def end_late() -> None:
        fake.wait(1.5)
        fake.lines(fake.text(id, "meanwhile"))
        fake.refuse(ping, "not-open", "the plugin is ending")
        fake.close(id, 1006, "the server did not answer", "shutdown")
        fake.exit(0)

    fake.at_end = end_late
    await stopped_well(stage)
    await stage.outcome(call, Refused)
    await stage.event("a", Message, text="meanwhile")
    await stage.event("a", Closed, code=1006, cause="shutdown")


@situation(process=True, seconds=6)
async def stop_kills(stage: Stage) -> None:
    """A plugin that hangs is killed five seconds after its stdin has ended, and no sooner."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    call, _ = await stage.ask(fake, "ping", to="a")
    fake.at_end = fake.stay
    stop = stage.call("stop")
    await fake.end_of_stdin()
    begun = time.monotonic()
    await fake.end()
    if (seconds := time.monotonic() - begun) < STOP_LIMIT:
        raise Broken("five seconds for the plugin to end by itself", f"its end in {seconds:.1f} s")
    outcome = await stage.outcome(stop, Done, KILL_LIMIT)
    if outcome.status == 0:
        raise Broken("the status of a killed process", "status 0")
    await stage.outcome(call, Ended)
    await stage.lose("a")


@situation(process=True, seconds=2)
async def stop_with_a_grandchild(stage: Stage) -> None:
    """A process that the plugin leaves behind with its stdout holds up no stop."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    fake.leave_a_grandchild()
    await stage.grandchild()
    await stopped_well(stage)
    await stage.event("a", Closed, code=1001, cause="shutdown")


@situation(process=True, seconds=2)
async def death_with_a_grandchild(stage: Stage) -> None:
    """Nor does it if the plugin has died: the stop ends, and all fails that waits."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    call, _ = await stage.ask(fake, "ping", to="a")
    fake.leave_a_grandchild()
    await stage.grandchild()
    fake.die()
    await fake.end()
    if not await stopped(stage, KILL_LIMIT):
        raise Broken("the status of a killed process", "status 0")
    await stage.outcome(call, Ended)
    await stage.lose("a")


@situation()
async def stop_twice(stage: Stage) -> None:
    """Every further stop returns the same as the first."""
    await stage.begin()
    stops = [stage.call("stop"), stage.call("stop")]
    for call in stops:
        if (outcome := await stage.outcome(call, Done)).status != 0:
            raise Broken("status 0 of each stop", repr(outcome))
    await stopped_well(stage)


@situation()
async def stop_while_pending(stage: Stage) -> None:
    """What the plugin leaves unanswered at its end fails."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    calls = [stage.call("ping", to="a"), stage.call("background")]
    for _ in calls:
        await fake.any_request()
    await stopped_well(stage)
    for call in calls:
        await stage.outcome(call, Ended)
    await stage.event("a", Closed, code=1001, cause="shutdown")


@situation()
async def call_after_stop(stage: Stage) -> None:
    """Calls after the stop fail at once."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    await stopped_well(stage)
    await stage.event("a", Closed, code=1001, cause="shutdown")
    create = {"as": "b", "url": "ws://127.0.0.1:9/b"}
    await stage.outcome(stage.call("create", **create), Ended)
    await stage.outcome(stage.call("background"), Ended)
    outcome = await stage.any_outcome(stage.call("send", to="a", text="x"))
    if not isinstance(outcome, Ended | Invalid):
        raise Broken("a failure of the send", repr(outcome))


@situation(seconds=2)
async def stop_while_flooding(stage: Stage) -> None:
    """While it stops, the host reads on, and tells what comes."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    count = 5_000

    def messages(start: int) -> None:
        for number in range(start, start + count):
            fake.lines(fake.text(id, f"{number} {'x' * 1_000}"))

    async def end_with_a_flood() -> None:
        messages(count)
        await fake.end_well()

    messages(0)
    fake.at_end = end_with_a_flood
    await stage.event("a", Message)
    await stopped_well(stage, FLOOD_LIMIT)
    for number in range(1, 2 * count):
        await stage.event("a", Message, text=f"{number} {'x' * 1_000}")
    await stage.event("a", Closed, code=1001, cause="shutdown")


@situation(seconds=3)
async def stop_with_a_slow_listener(stage: Stage) -> None:
    """A listener that takes its time does not hold up the plugin's end."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a", delay=100)
    for number in range(30):
        fake.lines(fake.text(id, str(number) * 2**15))
    await stage.event("a", Message)
    stop = stage.call("stop")
    await fake.end_of_stdin()
    await fake.end(STOP_LIMIT)
    if (outcome := await stage.outcome(stop, Done)).status != 0:
        raise Broken("status 0 when stopped", repr(outcome))
    stage.lost()
    # How many of them are told, once nobody needs them, is the host's affair.
    stage.no_matter("a")


@situation()
async def end_of_the_app(stage: Stage) -> None:
    """An app that ends its script stops its host, and leaves no process behind."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    stage.no_matter("a")
    stage.lost()
    stage.end_script()
    await fake.end_of_stdin()
    await fake.end()


async def plays_on(stage: Stage, fake: Fake) -> None:
    """Check that a new host works, with a name that was used before."""
    id = await stage.connect(fake, "a")
    await stage.works(fake, "a", id)


@situation()
async def restart_after_stop(stage: Stage) -> None:
    """After a stop a new host can be started."""
    await plays_on(stage, await stage.begin())
    await stopped_well(stage)
    await stage.event("a", Closed, code=1001, cause="shutdown")
    await plays_on(stage, await stage.begin(stage.call("start")))


@situation()
async def restart_after_death(stage: Stage) -> None:
    """After the plugin's death a new host can be started."""
    fake = await stage.begin()
    await plays_on(stage, fake)
    fake.die()
    await stage.lose("a")
    await plays_on(stage, await stage.begin(stage.call("start")))


@situation()
async def restart_after_a_failed_start(stage: Stage) -> None:
    """After a start that has failed a new host can be started."""
    fake = await stage.fake(FIRST_START)
    fake.write(b"Welcome to the frobnicator\n")
    await fails(stage)
    await fake.end()
    await plays_on(stage, await stage.begin(stage.call("start")))


@situation(seconds=2)
async def starts_and_stops(stage: Stage) -> None:
    """Ten hosts after each other leave nothing behind that would stop the next."""
    await stage.begin()
    for _ in range(9):
        await stopped_well(stage)
        fake = await stage.begin(stage.call("start"))
        await plays_on(stage, fake)
        fake.close("ws-1", 1000, "", "server")
        await stage.event("a", Closed, code=1000)
