"""Types, configuration, errors and small tools that every other layer may use."""
