"""Measures strategies against each other: the same questions, the same seeds, every reply kept.

plan.py settles what is measured: questions.py draws the questions, from files that hub.py may have
to fetch, and variants.py reads what to compare. run.py asks; results.py keeps one line a reply and
lets an interrupted run go on. summary.py makes the rows, with the intervals of estimates.py;
comparison.py says who beats whom; report.py writes that down and chart.py draws it. samples.py
reads recorded candidates and replaying.py searches among them; retrace.py replays a trace of the
service. Nothing here prints.
"""
