"""What tests of several folders share: ``from shared.environment import xla_flags``."""
