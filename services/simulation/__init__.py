"""The service on a virtual clock: what so many workers do under such a load, before they are there.

The planner, the driver and the purse are those of the service. Simulated are what is behind their
ports: workers that take the time that was measured on real ones and write what real ones wrote, the
ledger's store, and the clock.
"""
