"""Pictures, decoded in processes of their own that can be limited and killed."""
