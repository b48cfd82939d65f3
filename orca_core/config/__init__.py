"""The config of a trial: every knob, and how a config is resolved."""
