"""Where the parts of a running process are made, once, and given what they need."""
