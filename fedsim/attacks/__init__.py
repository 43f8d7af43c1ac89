"""What an attacker outside a bank can tell about its rows: audits and attacks, never part of training."""
