"""Proof by disturbance: a plan of faults by seed, a director that injects them, a report of what became of them.

`grammar` reads a SPEC, `plan` says what happens when and to whom (pure: the same seed, the same plan), `director`
carries it out on a running job and keeps a `recording`, and `report` makes figures of one (pure again), which `table`,
`page` and `timeline` show.
"""
