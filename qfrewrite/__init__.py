"""qfrewrite: rewrite trained TensorFlow graphs for 8-bit chips."""
