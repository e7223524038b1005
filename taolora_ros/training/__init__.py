"""Making a model: windows from recordings, training, quantization, cross-validation."""
