"""`.tflite` flatbuffers in and out."""
