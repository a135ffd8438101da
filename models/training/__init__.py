"""How a small network is trained: optimizers, schedules of the learning rate, augmentation, the loop."""
