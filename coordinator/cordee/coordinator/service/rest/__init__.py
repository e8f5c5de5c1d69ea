"""REST for people and the command line: `models` is what travels, `app` the application (heavy: imported late)."""
