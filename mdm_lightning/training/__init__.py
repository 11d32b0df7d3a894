"""Floor 4: the LightningModule, its data module and callbacks."""
