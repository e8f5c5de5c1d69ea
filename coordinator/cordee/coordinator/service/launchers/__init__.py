"""Launchers start and stop agents on a substrate. `base` is the interface; `process` runs them as processes of this machine."""
