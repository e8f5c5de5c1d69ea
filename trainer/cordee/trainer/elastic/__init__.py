"""The elastic step: shards, exact reduction, commit, and state handed to a joiner."""
