"""The brain: what to try next, when to stop and which answer to choose. Pure standard library."""
