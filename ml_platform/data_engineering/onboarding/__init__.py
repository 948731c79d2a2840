"""A first look at somebody's own history: what its files measurably are, and the contract that says so."""
