"""Measures strategies against each other: the same questions, the same seeds, every reply kept.

questions.py draws the questions, variants.py reads what to compare, results.py keeps one line a
reply and lets an interrupted run go on, run.py asks, summary.py makes the rows. samples.py reads
recorded candidates and replaying.py searches among them; retrace.py replays a trace of the service.
Nothing here prints.
"""
