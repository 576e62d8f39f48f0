"""A compound question, a plan of it, and the answers to its steps, as scripts have them."""

from __future__ import annotations

from planner.domain import Message, Query, Sampling

QUESTION = "Anna has 3 pens and buys 4. Ben has 5 pens and buys 6. How many have both?"
QUERY = Query((Message("user", QUESTION),), Sampling(max_tokens=400), seed=3)
STEPS = [
    {"id": "a", "question": "Anna has 3 pens and buys 4. How many has Anna?", "needs": []},
    {"id": "b", "question": "Ben has 5 pens and buys 6. How many has Ben?", "needs": []},
    {"id": "c", "question": "Anna has $a and Ben $b. How many have both?", "needs": ["a", "b"]},
]
ANSWERS = {"How many has Anna?": 7, "How many has Ben?": 11, "Anna has 7 and Ben 11.": 18}
