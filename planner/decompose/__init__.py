"""Splitting a question into steps: how a plan is read, what of it can be used, what each may cost.

The strategies that work by it are in `planner.search`, as all others.
"""
