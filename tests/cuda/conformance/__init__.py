"""What CuPy answers to small expressions: the stand-in is held to it everywhere, and the real CuPy wherever there is a GPU."""
