"""What the verifier is made of: comparing mathematics, and running code where it can do no harm."""
