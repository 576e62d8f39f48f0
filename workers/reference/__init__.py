"""Two small models of our own, so that the service can be run and measured for real anywhere.

REASONER and PRM are the directories they ship in, ready for vLLM and transformers. They know
synthetic word problems and nothing else.
"""

from pathlib import Path

_MODELS = Path(__file__).parent / "models"

REASONER = _MODELS / "reasoner"
"""A Qwen2 causal LM with a chat template; one step a line, then `#### answer`."""

PRM = _MODELS / "prm"
"""A `Qwen2ForProcessRewardModel`; it wants STEP_TAG after every step, in place of the newline."""

CALIBRATION = _MODELS / "calibration.json"
"""How right the two are together, for each strategy: what `longthink eval --calibrate` found."""

STEP_TAG = "<step>"
"""The special token at which the PRM tells how likely all steps so far are right."""
