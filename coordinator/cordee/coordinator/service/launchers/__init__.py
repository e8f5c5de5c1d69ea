"""Launchers start and stop agents on a substrate: `base` is the interface, `process` uses this machine's processes."""
