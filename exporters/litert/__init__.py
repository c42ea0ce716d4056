"""What every runtime of .tflite files shares: the float model, the file as an object, ranges and recipes."""
