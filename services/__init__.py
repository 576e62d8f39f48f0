"""The edge: HTTP, Redis, the command line, and the wiring of everything else."""
