"""Access to the HTTP server: tokens, TLS, and the limits of connections and requests."""
