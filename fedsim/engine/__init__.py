"""Runs a plan: who trains where, what crosses the wire, what a round is. The only layer that knows Ray."""
