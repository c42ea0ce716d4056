"""What every runtime that starts from ONNX shares: the float graph, files and sessions, and activation ranges."""
