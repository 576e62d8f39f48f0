"""The hands: vLLM engines behind Ray Serve, and the reference models they run by default."""
