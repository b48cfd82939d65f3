"""The stage between alignment and fine-tuning: the model gets used to the target's inputs, without labels."""
