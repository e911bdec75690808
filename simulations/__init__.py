"""How a federation is run, compared and reported on the experimenter's machines."""
