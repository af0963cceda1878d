"""Pictures to tensors, for devices and publishers: `bare` keeps what makes pixels, `decode` makes the values."""
