"""What a user holds (`network`), and the engine that owns everything that lives on a device (`engine`)."""
