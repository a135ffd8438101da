"""Another number format for what is computed."""
