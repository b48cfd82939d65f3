"""What the loops of pretraining, alignment and fine-tuning share."""
