"""Hyperparameter search: many trials of one config, judged by validation clients alone."""
