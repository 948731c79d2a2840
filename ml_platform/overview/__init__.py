"""What people ask of a product: its history, and how it is today."""
