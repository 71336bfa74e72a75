"""What a subscription decides about the events that it is given, without I/O."""

from __future__ import annotations

from windshift.protos import events
from windshift.sdk.deliveries import ACK, Outcome, Verdict
from windshift.sdk.runtime.jobs import Arrival, Job, Jobs

RETRY = Verdict(Outcome.RETRY)
GIVEN_UP = Verdict(Outcome.DEAD_LETTER)


def event(event_id: int = 1, subject: str = "a.x") -> events.Event:
    """Make an event."""
    return events.Event(id=event_id, subject=subject, delivery_attempt=1)


def started(jobs: Jobs, call: int = 1, now: float = 0.0, event_id: int = 1) -> Job:
    """Deliver a new event, and start its job."""
    job, arrival = jobs.deliver(event(event_id), call, now)
    assert arrival is Arrival.NEW
    job.started = True
    return job


def test_a_job_that_runs_adopts_a_redelivery() -> None:
    """The handler is not started again after a reconnect."""
    jobs = Jobs()
    job = started(jobs)
    assert jobs.call_ended(1, 1.0) == []
    assert jobs.deliver(event(), 2, 2.0) == (job, Arrival.ADOPTED)
    assert (job.call, job.since) == (2, 0.0)


def test_an_outcome_is_said_again() -> None:
    """What was acknowledged or given up on a call that broke is settled from memory."""
    for verdict in (ACK, GIVEN_UP):
        jobs = Jobs()
        job = started(jobs)
        job.verdict, job.said = verdict, 1
        assert jobs.call_ended(1, 1.0) == []
        assert jobs.deliver(event(), 2, 2.0) == (job, Arrival.DECIDED)
        assert job.said == 0


def test_a_retry_runs_anew() -> None:
    """The release of a call is the retry that was asked for, and a redelivery is the next attempt."""
    jobs = Jobs()
    job = started(jobs)
    job.verdict = RETRY
    assert jobs.call_ended(1, 1.0) == [job]
    again = started(jobs, 2)
    again.verdict, again.said = RETRY, 2  # the confirmation is still on its way
    assert jobs.deliver(event(), 2, 3.0)[1] is Arrival.NEW
    assert not jobs.current(again)


def test_what_was_not_started_is_forgotten_with_its_call() -> None:
    """It is another attempt when it comes again, here or elsewhere."""
    jobs = Jobs()
    job, _ = jobs.deliver(event(), 1, 0.0)
    assert jobs.call_ended(1, 1.0) == [job]
    assert len(jobs) == 0


def test_an_id_of_a_stream_made_anew_is_another_event() -> None:
    """Ids are compared together with subject, time and size."""
    jobs = Jobs()
    job = started(jobs)
    other, arrival = jobs.deliver(event(subject="a.y"), 1, 1.0)
    assert arrival is Arrival.NEW
    assert not jobs.current(job)
    assert jobs.current(other)


def with_token(jobs: Jobs) -> Job:
    """Have an event delivered that another call can go on with."""
    return jobs.deliver(events.Event(id=1, subject="a.x", delivery_attempt=1, token=b"t"), 1, 0.0)[0]


def acknowledged(jobs: Jobs, call: int, now: float, event_id: int = 1) -> None:
    """Have an event delivered, handled, and its ack confirmed."""
    job = started(jobs, call, now, event_id)
    job.verdict = ACK
    jobs.settled(job, now)


def forgotten(jobs: Jobs, call: int, now: float, attempt: int, event_id: int = 1) -> Arrival:
    """Have the event come again, and forget that it did."""
    again = event(event_id)
    again.delivery_attempt = attempt
    job, arrival = jobs.deliver(again, call, now)
    jobs.drop(job)
    return arrival


def test_confirmed_acks_are_remembered_on_later_calls() -> None:
    """A broker that was killed delivers again what it had confirmed: at once, or when the lease is over."""
    for attempt, last in ((1, 1035.0), (2, 1065.0)):
        jobs = Jobs()
        acknowledged(jobs, 1, 1.0)
        assert forgotten(jobs, 1, 2.0, attempt) is Arrival.NEW  # on the same call somebody wants it again
        jobs.call_ended(1, 3.0)
        assert forgotten(jobs, 2, 999.0, attempt) is Arrival.DECIDED  # however long the broker was away
        jobs.call_began(1000.0, timeout=30.0)
        assert forgotten(jobs, 2, last - 0.1, attempt) is Arrival.DECIDED
        assert forgotten(jobs, 2, last, attempt) is Arrival.NEW


def test_a_consumer_that_was_moved_back_gets_its_events() -> None:
    """What is handled anew is not taken for acknowledged when it comes a second time."""
    jobs = Jobs()
    acknowledged(jobs, 1, 1.0)
    jobs.call_ended(1, 3.0)
    jobs.call_began(4.0, timeout=30.0)
    assert forgotten(jobs, 2, 40.0, attempt=1) is Arrival.NEW
    assert forgotten(jobs, 2, 41.0, attempt=2) is Arrival.NEW


def test_acks_are_forgotten_where_calls_end_all_the_time() -> None:
    """Each has its time from the next call on, whatever becomes of that and of later ones."""
    for attempt, remembered in ((1, 3), (2, 6)):  # calls of 10 s that are within 35 and 65 s
        jobs = Jobs()
        for call in range(1, 101):
            now = call * 10.0
            acknowledged(jobs, call, now, event_id=call)
            jobs.call_ended(call, now + 1.0)
            jobs.call_began(now + 2.0, timeout=30.0)
            for ago in range(1, min(call, 9)):
                expected = Arrival.DECIDED if ago <= remembered else Arrival.NEW
                assert forgotten(jobs, call + 1, now + 6.0, attempt, call - ago) is expected


def test_acks_are_not_kept_where_calls_end_all_the_time() -> None:
    """Whether or not their events come again."""
    jobs = Jobs()
    for call in range(1, 101):
        acknowledged(jobs, call, call * 10.0, event_id=call)
        jobs.call_ended(call, call * 10.0 + 1.0)
        jobs.call_began(call * 10.0 + 2.0, timeout=30.0)
    assert list(jobs._doubtful) == list(range(94, 101))


def test_acks_from_long_before_a_call_ended_are_not_kept() -> None:
    """A broker forgets the last ones only."""
    jobs = Jobs()
    acknowledged(jobs, 1, 1.0)
    other = started(jobs, 1, 6.1, event_id=2)
    other.verdict = ACK
    jobs.settled(other, 6.1)
    jobs.call_ended(1, 6.2)
    assert forgotten(jobs, 2, 6.3, attempt=1) is Arrival.NEW


def test_an_idle_worker_gets_events_again_that_it_acked_long_ago() -> None:
    """A call that breaks puts in doubt what was acked since the server was last heard of, at the earliest."""
    for ended, arrival in ((35.9, Arrival.DECIDED), (36.0, Arrival.NEW), (3600.0, Arrival.NEW)):
        jobs = Jobs()
        acknowledged(jobs, 1, 1.0)
        jobs.call_ended(1, ended)
        jobs.call_began(ended + 1.0, timeout=30.0)
        assert forgotten(jobs, 2, ended + 11.0, attempt=1) is arrival


def test_an_ack_that_came_too_late_is_remembered_on_the_same_call_too() -> None:
    """The event was handled, whatever became of its lease."""
    jobs = Jobs()
    job = started(jobs)
    job.verdict = ACK
    jobs.drop(job)
    jobs.too_late(job, 1.0)
    assert jobs.deliver(event(), 1, 1.1)[1] is Arrival.DECIDED


def test_an_ack_in_doubt_that_is_refused_is_remembered() -> None:
    """A broker that was killed has forgotten the delivery, and delivers the event anew."""
    jobs = Jobs()
    job = with_token(jobs)
    job.started, job.verdict, job.said = True, ACK, 1
    jobs.call_ended(1, 1.0)
    jobs.call_began(2.0, timeout=30.0)
    assert jobs.resume(jobs.resumable(10), 2, 2.0) == [job]
    jobs.refused(job, 2.1)
    assert forgotten(jobs, 2, 2.2, attempt=1) is Arrival.DECIDED


def test_an_ack_of_a_resumed_job_is_remembered_on_the_same_call_too() -> None:
    """JetStream confirms it, also when it has forgotten the delivery and makes another one."""
    jobs = Jobs()
    job = with_token(jobs)
    job.started, job.verdict, job.said = True, ACK, 1
    jobs.call_ended(1, 1.0)
    jobs.call_began(2.0, timeout=30.0)
    jobs.resume(jobs.resumable(10), 2, 2.0)
    jobs.settled(job, 2.1)
    assert forgotten(jobs, 2, 2.2, attempt=1) is Arrival.DECIDED


def test_rejects_are_not_remembered() -> None:
    """An event that was rejected and comes again is handled again."""
    jobs = Jobs()
    job = started(jobs)
    job.verdict = GIVEN_UP
    jobs.settled(job, 1.0)
    assert jobs.deliver(event(), 2, 1.1)[1] is Arrival.NEW


def test_outcomes_that_nobody_asks_for_are_forgotten() -> None:
    """Somebody else has the event; a job that runs is kept."""
    jobs = Jobs()
    decided, running = started(jobs), started(jobs, event_id=2)
    decided.verdict = ACK
    jobs.call_ended(1, 10.0)
    assert jobs.forget(10.0) == []
    assert jobs.forget(10.1) == [decided]
    assert jobs.current(running)


def test_leases_are_prolonged_up_to_the_longest() -> None:
    """All that is held longer than a quarter of the timeout, waiting or running, but not what is settled."""
    jobs = Jobs()
    running, settling = started(jobs), started(jobs, event_id=2)
    waiting, _ = jobs.deliver(event(3), 1, 0.0)
    settling.verdict, settling.said = ACK, 1
    started(jobs, call=2, event_id=4)
    assert jobs.leases(1, 1.0, 10.0, 30.0) == ([], [])
    assert jobs.leases(1, 3.0, 10.0, 30.0) == ([running, waiting], [])
    assert jobs.leases(1, 4.0, 10.0, 30.0) == ([], [])
    assert jobs.leases(1, 30.0, 10.0, 30.0) == ([waiting], [running])
    assert jobs.leases(1, 40.0, 10.0, 30.0) == ([waiting], [])
    assert running.expired


def test_the_time_of_what_was_lost_runs_on() -> None:
    """Nobody prolongs its lease, and it does not keep its place for ever."""
    jobs = Jobs()
    job = started(jobs)
    jobs.call_ended(1, 1.0)
    assert jobs.leases(2, 29.0, 10.0, 30.0) == ([], [])
    assert jobs.leases(2, 30.0, 10.0, 30.0) == ([], [job])
    assert jobs.leases(2, 40.0, 10.0, 30.0) == ([], [])


# Tokens


def held(jobs: Jobs, event_id: int = 1, call: int = 1, *, is_started: bool = True) -> Job:
    """Deliver an event with a token."""
    job, _ = jobs.deliver(events.Event(id=event_id, subject="a.x", token=b"t%d" % event_id), call, 0.0)
    job.started = is_started
    return job


def test_a_call_goes_on_with_jobs() -> None:
    """Those that run first, then those that wait; none is over."""
    jobs = Jobs()
    waits, runs = held(jobs, 1, is_started=False), held(jobs, 2)
    assert jobs.resumable(10) == []
    assert jobs.call_ended(1, 1.0) == []
    assert jobs.resumable(10) == [runs, waits]
    assert jobs.resumable(1) == [runs]
    assert jobs.resume([runs, waits], 2, 2.0) == []
    assert (runs.call, runs.resumed, runs.pinged, waits.call) == (2, 2, 2.0, 2)
    assert jobs.not_resumed() == []


def test_verdicts_of_jobs_that_a_call_goes_on_with() -> None:
    """They are said; a retry that was said before is not, since it may have been heard."""
    jobs = Jobs()
    acked, buried, retried, unsaid = (held(jobs, number) for number in range(1, 5))
    for job, verdict in ((acked, ACK), (buried, GIVEN_UP), (retried, RETRY), (unsaid, RETRY)):
        job.verdict = verdict
        job.said = 0 if job is unsaid else 1
    assert jobs.call_ended(1, 1.0) == [retried]
    assert jobs.resume(jobs.resumable(10), 2, 2.0) == [acked, buried, unsaid]
    assert (acked.doubted, buried.doubted) == (True, False)


def test_a_server_that_knows_no_tokens() -> None:
    """What did not begin and what is to be tried again are over, and the rest waits for its event."""
    jobs = Jobs()
    waits, runs, retried = held(jobs, 1, is_started=False), held(jobs, 2), held(jobs, 3)
    retried.verdict = RETRY
    jobs.call_ended(1, 1.0)
    assert jobs.not_resumed() == [waits, retried]
    assert jobs.get(2) is runs


def test_an_event_that_comes_again_has_another_token() -> None:
    """The job goes on with the later delivery."""
    jobs = Jobs()
    job = held(jobs)
    jobs.call_ended(1, 1.0)
    jobs.resume([job], 2, 2.0)
    again = events.Event(id=1, subject="a.x", token=b"later")
    assert jobs.deliver(again, 2, 3.0) == (job, Arrival.ADOPTED)
    assert (job.token, job.resumed) == (b"later", 0)
