"""What both sides share of HTTP: through which proxy, how long an exchange may take, and whose answer it is."""
