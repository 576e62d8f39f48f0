"""Load: synthetic questions against a running service, and what became of them.

`plan.py` says what is asked and when, `jobs.py` and `arrivals.py` draw it from a seed, `swarm.py`
asks it in a process of its own on locust, `figures.py` sums up, `picture.py` draws. `watch.py` and
`growth.py` look at the service's processes meanwhile.
"""
