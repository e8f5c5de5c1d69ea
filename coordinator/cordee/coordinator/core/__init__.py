"""The coordinator's decisions, as pure state machines: events and the time go in, actions come out.

Nothing here does I/O, reads a clock, awaits, or knows protobuf. So every decision can be tested by properties over
random histories, and replayed from a log of events. The service (`cordee.coordinator.service`) is the shell around it:
it turns messages, process exits and timers into events, and carries out the actions.

`job` composes the rest: `roster` (who is there), `rendezvous` (how a world is formed), `lifecycle` (the job's states
and its end), `failure` (what an exit means). `scheduler` stands beside it, one for all jobs.
"""
