"""The service: jobs, rendezvous, scheduling, launchers, REST, gRPC, metrics, and the command line."""
