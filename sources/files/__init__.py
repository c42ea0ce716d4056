"""What several formats are read with: archives, JSON and protobuf of bounded size, and paths that stay inside."""
