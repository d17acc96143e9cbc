"""What lies between the connection that the host knows and the server: bytes, names, sockets."""
