"""What authorization costs: publishes with it beside publishes without, and the decision alone."""

from __future__ import annotations

from .bench import Bench
from .comparing import Way, compare_publishing
from .credentials import bearer, write_rules
from .processes import run_program, windshift_server

AUTH, CHECK = "auth", "auth, one call without a server"
OFF, TOKEN, JWT = "off", "on, static token", "on, JWT"
MICROSECONDS = "CPU, µs"


async def measure_auth(bench: Bench) -> None:
    """Publish to a server with authorization and to one without."""
    if not bench.has_h2load("auth"):
        return
    rules = write_rules(bench.directory, issuer=True)
    token, signed = (f"authorization: {bearer(token)}" for token in (rules.token, *rules.tokens(1)))
    async with (
        windshift_server(bench.directory, bench.nats) as free,
        windshift_server(bench.directory, bench.nats, environment=rules.environment) as guarded,
    ):
        ways = {
            OFF: Way(free),
            TOKEN: Way(guarded, (token,)),
            JWT: Way(guarded, (signed,)),
        }
        await compare_publishing(bench, AUTH, ways, free, bench.options.scaled(80_000))


async def measure_auth_check(bench: Bench) -> None:
    """Know callers and ask what they may do, in a process that does nothing else."""
    for run in range(bench.options.runs):
        bench.say(f"auth-check, run {run + 1} of {bench.options.runs}")
        for way, microseconds in (await run_program(bench.directory, "auth_check")).items():
            bench.figures.add(CHECK, way, MICROSECONDS, microseconds)
            bench.say(f"    {way}: {microseconds:.2f} µs")
