"""Local training and evaluation: one loaded base model playing any number of banks. Runs without Ray."""
