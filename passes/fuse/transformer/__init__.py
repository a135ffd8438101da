"""What fuse-transformer is made of: sizes, attention, kinds of models, trials."""
