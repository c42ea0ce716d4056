"""The numbers that a quantizer needs from the user's data, and what is wrong with that data."""
