"""Training: a thin LightningModule around a plain model."""
