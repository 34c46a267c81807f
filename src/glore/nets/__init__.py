"""Networks, built from parts; a builder takes values that JSON can hold."""
