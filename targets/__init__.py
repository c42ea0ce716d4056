"""What a place can bear: targets, devices, the feasibility check and the errors. Standard library only."""
