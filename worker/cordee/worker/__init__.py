"""The processes in a pod: the agent, the worker, its session with the coordinator, and the mesh between workers."""
