"""Hydra around the commands: the only part of the package that knows Hydra and OmegaConf."""
