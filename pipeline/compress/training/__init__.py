"""Training of what was compressed: fine-tuning, distillation, augmentation, statistics of batch norm."""
