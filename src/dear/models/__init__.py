"""Strings to tensors to scores."""

import logging

# peft and accelerate import it where it is installed, and it tells which kernels it does without,
# and for every product that it casts
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
